"""A training whose text has no figures still ends with all its files."""

from pathlib import Path

import pytest
from command_line import overrides
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, PreTrainedTokenizerFast

from lumenspark.cli import run as lumenspark
from lumenspark.evaluation.results import read_evaluations


def test_a_tokenizer_that_does_not_know_the_text(
    text_folder: Path, tmp_path: Path, own_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "the": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[UNK]", bos_token="<s>", eos_token="<s>"
    )
    tokenizer.save_pretrained(tmp_path / "words")
    GPT2Config(vocab_size=3).save_pretrained(tmp_path / "words")  # what it is the tokenizer of
    data = ["--data", str(text_folder), "--tokenizer.name", str(tmp_path / "words")]
    assert lumenspark(["train", "lumiere-tiny", *data, *overrides()]) == 0
    (run,) = own_runs.iterdir()
    said = capsys.readouterr().out
    assert "no figures by the protocol strided: the tokenizer does not fit the text" in " ".join(
        said.split()
    )
    assert read_evaluations(run) == []
    assert "has not been evaluated" in (run / "README.md").read_text(encoding="utf-8")
    assert (run / "loss.svg").is_file()
