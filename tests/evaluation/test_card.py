"""The card says what the run's files say, all of it and nothing else."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lumenspark.data.corpora import Corpus
from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import read_evaluations, store
from lumenspark.evaluation.weights import weights_in
from lumenspark.files import file_digest
from lumenspark.model_card.card import build_card, check_card, write_card
from lumenspark.models import LumiereConfig, LumiereForCausalLM
from lumenspark.runs.samples import Sample, write_samples

HEADINGS = [
    "## Model Overview",
    "## Model Architecture",
    "### Core Architecture",
    "### Modern Improvements",
    "### Parameter Count",
    "## Training Details",
    "### Dataset",
    "### Tokenization",
    "## Performance Metrics",
    "### Evaluation Results",
    "### Samples",
    "## Model Capabilities",
    "### Strengths",
    "### Limitations",
    "## Technical Implementation",
    "### Key Components",
    "## License",
    "## Model Card Authors",
]


@pytest.fixture
def evaluated(run: Path, corpus: Corpus) -> Path:
    folder = run / "checkpoints" / "best"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for protocol in ("strided", "card"):
        found = evaluate(model, tokenizer, corpus, protocol=protocol)
        store(run, found, checkpoint="best", step=40, command=f"evaluate --protocol {protocol}")
    return run


def seal(folder: Path, step: int = 40) -> None:
    """Write complete.json for what a checkpoint holds now."""
    marker = folder / "complete.json"
    marker.unlink(missing_ok=True)
    digests = {path.name: file_digest(path) for path in folder.iterdir()}
    marker.write_text(json.dumps({"step": step, "files": digests}))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_corpus(run: Path, **changes: object) -> None:
    path = run / "environment.json"
    edit_json(path, corpus=json.loads(path.read_text())["corpus"] | changes)


def test_sections_and_figures(evaluated: Path) -> None:
    text = write_card(evaluated).read_text(encoding="utf-8")
    found = [line for line in text.splitlines() if line.startswith("##")]
    assert [line for line in found if line in HEADINGS] == HEADINGS

    weights = load_file(evaluated / "checkpoints" / "best" / "model.safetensors")
    count = sum(tensor.numel() for tensor in weights.values())
    strided, card = read_evaluations(evaluated)
    for line in (
        "- **Layers:** 2 transformer blocks",
        "- **Attention Heads:** 4 per layer",
        "- **Embedding Dimension:** 32",
        "- **Context Length:** 48 tokens",
        "- **Feed-forward Dimension:** 88",
        "- **Key/Value Dimensions:** 8 each",
        f"- **Total Parameters:** {count:,}",
        "- **Tokenizer Type:** Byte-Pair Encoding (BPE)",
        "- **Special Tokens:** `<|sot|>`, `<|eot|>`, `<|pad|>`",
        "- **Tokens:** train 1,234, validation 12, test 13",
        "- **Steps:** 40 logged, 40 planned",
        "- **Checkpoint:** 'best', from step 40",
        "- **Tokens Seen:** 7,680",
        "- **Training Time:** 9 seconds",
        "- **Lowest Validation Loss:** 4.5432 at step 40",
        f"- **Test Loss:** {card['loss']:.4f} (protocol `card`)",
        f"- **Test Perplexity:** {card['perplexity']:.4f} (protocol `card`)",
        f"- **Test Bits per Byte:** {strided['bits_per_byte']:.4f} (protocol `strided`)",
        "- **Padding Handling:** Special padding token `<|pad|>` (ID 2)",
        "- **Output Layer:** Linear projection to vocabulary logits, "
        "with the weights of the token embedding",
        "![Training and validation loss](loss.svg)",
        "MIT License - See project LICENSE file for details.",
    ):
        assert line in text.splitlines()
    assert "None" not in text
    assert "{{" not in text


def test_metadata_is_valid_for_the_hub(evaluated: Path) -> None:
    path = write_card(evaluated)
    metadata = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    assert metadata["license"] == "mit"
    assert metadata["language"] == "en"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-generation"
    assert "datasets" not in metadata

    (index,) = metadata["model-index"]
    assert index["name"] in path.read_text(encoding="utf-8")
    for result in index["results"]:
        assert result["task"]["type"] == "text-generation"
        assert {"type", "name"} <= result["dataset"].keys()
        assert all(isinstance(metric["value"], float) for metric in result["metrics"])
    values = {metric["value"] for result in index["results"] for metric in result["metrics"]}
    strided, card = read_evaluations(evaluated)
    assert values == {
        round(entry[name], 4)
        for entry in (strided, card)
        for name in ("loss", "perplexity", "word_perplexity", "bits_per_byte")
        if entry[name] is not None
    }
    assert str(ModelCard.load(path)) == str(build_card(evaluated))


def test_the_date_is_that_of_the_evaluation_or_of_the_run(run: Path, evaluated: Path) -> None:
    path = evaluated / "evaluation.json"
    entries = json.loads(path.read_text())["evaluations"]
    entries[0]["finished_at"] = "2026-03-09T10:11:12+00:00"
    entries[1]["finished_at"] = "2026-03-08T10:11:12+00:00"
    path.write_text(json.dumps({"evaluations": entries}))
    closing = "using model checkpoint 'best' from run 'k3v9x2mq'."
    assert f"generated on Mar 9, 2026 {closing}" in str(build_card(evaluated))
    path.unlink()
    assert f"generated on Feb 3, 2026 {closing}" in str(build_card(run))


def test_not_evaluated(run: Path) -> None:
    text = str(build_card(run))
    assert "The checkpoint 'best' has not been evaluated." in text
    assert "Test Loss" not in text
    assert "model-index" not in text


def test_figures_of_weights_that_are_gone_are_left_out(evaluated: Path) -> None:
    """The run was resumed after its evaluation, and a later step is the best one now."""
    edit_json(evaluated / "checkpoints" / "best" / "complete.json", step=80)
    text = str(build_card(evaluated))
    assert "- **Checkpoint:** 'best', from step 80" in text.splitlines()
    assert "The checkpoint 'best' has not been evaluated." in text
    assert "model-index" not in text


def test_a_language_that_nobody_recorded_is_not_made_up(run: Path) -> None:
    change_corpus(run, language=None)
    card = build_card(run)
    assert card.data.language is None
    assert "- **Language:** Trained on text whose language is not recorded" in card.text
    assert "Single Language" not in card.text


def test_the_hardware_with_and_without_a_count_of_cores(run: Path) -> None:
    hardware = "- **Hardware:** device `cpu` (a small processor); "
    assert f"{hardware}2 CPU cores, 2 threads" in str(build_card(run))
    edit_json(run / "environment.json", cores=None)
    assert f"{hardware}2 threads" in str(build_card(run))


def test_figures_of_another_corpus_are_no_test_loss(evaluated: Path) -> None:
    change_corpus(evaluated, digest="f" * 64)
    text = str(build_card(evaluated))
    assert "Test Loss" not in text
    assert "| kettles | test | card |" in text


def test_a_local_folder_is_only_called_by_its_name(evaluated: Path) -> None:
    change_corpus(evaluated, name="/home/someone/wikitext-2-raw")
    text = str(build_card(evaluated))
    assert "- **Primary Dataset:** `wikitext-2-raw`, local text" in text
    assert "WikiText-2" not in text
    assert "/home" not in text


def test_a_hub_set_is_named_with_its_id(run: Path) -> None:
    change_corpus(run, name="wikitext-2", hub_id="Salesforce/wikitext", revision="b08601e")
    card = build_card(run)
    assert card.data.datasets == ["Salesforce/wikitext"]
    assert (
        "- **Primary Dataset:** WikiText-2 Raw (wikitext-2-raw-v1), [Salesforce/wikitext]"
        "(https://huggingface.co/datasets/Salesforce/wikitext), revision `b08601e`"
    ) in card.text


@pytest.mark.parametrize("name", ["python-docs", "python-docs-3.11.9"])
def test_the_embedded_corpus(run: Path, name: str) -> None:
    change_corpus(run, name=name, layout="plain", license="PSF-2.0")
    text = str(build_card(run))
    assert f"`{name}`, the documentation of a Python installation" in text
    assert "docstrings of its standard library (Python 3.11.9)" in text
    assert "has its own: PSF-2.0." in text


@pytest.mark.parametrize("name", ["tales", "tales-5mb"])
def test_made_stories_are_called_that(run: Path, name: str) -> None:
    change_corpus(run, name=name, layout="plain", license="MIT")
    text = str(build_card(run))
    assert f"`{name}`, stories that lumenspark writes itself: made text" in text


def test_the_entropy_of_a_made_text_stands_beside_the_figure(evaluated: Path) -> None:
    entries = json.loads((evaluated / "evaluation.json").read_text())["evaluations"]
    for entry in entries:
        entry["entropy"] = 0.25
    edit_json(evaluated / "evaluation.json", evaluations=entries)
    text = str(build_card(evaluated))
    assert "**Entropy of the Text:** 0.2500 bits per byte, which no model can beat" in text


def test_samples_of_these_weights_and_of_the_training(run: Path) -> None:
    digest = weights_in(run / "checkpoints" / "best").digest
    written = [Sample("Once", "Once a ```kettle``` sang.\nIt\x1b[31m boiled.", 0.7, 3)]
    write_samples(run, digest, written)
    with (run / "metrics.jsonl").open("a") as metrics:
        for step, text in ((10, "Once | a"), (20, "Once <b>")):
            event = {"step": step, "event": "sample", "prompt": "Once", "text": text}
            metrics.write(json.dumps(event) + "\n")
    text = str(build_card(run))
    assert "Prompt `Once`, temperature 0.7, seed 3:\n\n````text\nOnce a ```kettle``` sang." in text
    assert "\x1b[31m" not in text
    assert "| 10 | Once &#124; a |\n| 20 | Once &#60;b&#62; |" in text

    write_samples(run, "another digest", written)
    assert "kettle``` sang" not in str(build_card(run))


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"weights": "DIGEST", "samples": [{"prompt": 1}]}', '{"samples": []}'],
)
def test_damaged_samples(run: Path, content: str) -> None:
    digest = weights_in(run / "checkpoints" / "best").digest
    (run / "samples.json").write_text(content.replace("DIGEST", str(digest)))
    with pytest.raises(UserError, match=r"samples\.json cannot be read .*so remove it"):
        build_card(run)


def test_lumiere(run: Path) -> None:
    LumiereForCausalLM(LumiereConfig()).save_pretrained(run / "checkpoints" / "best")
    seal(run / "checkpoints" / "best")
    text = str(build_card(run))
    for line in (
        "# Lumiére-1M Model Card",
        "- **Layers:** 4 transformer blocks",
        "- **Embedding Dimension:** 128",
        "- **Context Length:** 64 tokens",
        "- **Feed-forward Dimension:** 256 (gated: 168)",
        "- **Key/Value Dimensions:** 32 each",
        "- **Dropout:** 0.1",
        "- **Vocabulary Size:** 4096 tokens",
        "- **Total Parameters:** 1,053,824",
        "- **Activation:** SwiGLU in feed-forward networks instead of ReLU",
        "- **Position Encoding:** Learned positional embeddings",
    ):
        assert line in text.splitlines()
    assert "trust_remote_code=True" in text


def test_a_line_of_metrics_cut_short_by_a_kill(run: Path) -> None:
    before = str(build_card(run))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "tok')
    assert str(build_card(run)) == before


def test_check_finds_nothing_in_a_true_card(evaluated: Path) -> None:
    write_card(evaluated)
    assert check_card(evaluated) == []
    assert check_card(evaluated, "best") == []


def test_check_names_each_line_that_the_files_do_not_say(evaluated: Path) -> None:
    path = write_card(evaluated)
    text = path.read_text(encoding="utf-8")
    better = re.sub(r"(\*\*Test Loss:\*\*) [\d.]+", r"\1 1.2345", text)
    path.write_text(better + "It is the best model there is.\n", encoding="utf-8")
    problems = "\n".join(check_card(evaluated))
    assert "1.2345" in problems
    assert "It is the best model there is." in problems
    assert "**Test Loss:**" in problems
    assert "**Test Perplexity:**" not in problems


def test_check_notices_files_that_changed_after_the_card(evaluated: Path) -> None:
    write_card(evaluated)
    with (evaluated / "metrics.jsonl").open("a") as file:
        file.write('{"step": 60, "tokens": 9999, "loss": 4.1, "seconds": 12.0}\n')
    problems = check_card(evaluated)
    assert any("9,999" in problem for problem in problems)


def test_the_closing_line_names_the_checkpoint_to_check(evaluated: Path) -> None:
    folder = evaluated / "checkpoints"
    (folder / "best").rename(folder / "step-000040")
    write_card(evaluated, "step-000040")
    assert check_card(evaluated) == []


def test_what_is_missing_is_named(run: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint 'last': it has best"):
        build_card(run, "last")
    with pytest.raises(UserError, match="has no checkpoint"):
        build_card(run, "../../elsewhere")
    with pytest.raises(UserError, match=r"has no README\.md yet"):
        check_card(run)
    weights = run / "checkpoints" / "best" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"model\.safetensors was truncated or altered"):
        build_card(run)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        build_card(run)
    weights.write_bytes(whole)
    (run / "environment.json").write_text("{")
    with pytest.raises(UserError, match=r"environment\.json cannot be read"):
        build_card(run)
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"recipe\.yaml is missing"):
        build_card(run)
