"""Byte-level BPE trained on a bounded sample of the corpus; or an existing tokenizer."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lumenspark.data.tokenizer_growth import check_growth
from lumenspark.errors import UserError, reading
from lumenspark.hub import fetch, split_revision
from lumenspark.memory import check_memory
from lumenspark.model_folder import check_files, read_json
from lumenspark.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOT, EOT, PAD = "<|sot|>", "<|eot|>", "<|pad|>"
SOT_ID, EOT_ID, PAD_ID = 0, 1, 2
SMALLEST = 3 + 256  # special tokens and bytes

SAMPLE_BYTES = 100_000_000
# The trainer takes about 125 bytes of memory per byte of distinct words (measured for words of 4
# to 32 bytes), so this limit is about 250 MB. The first 10 MB of WikiText-2 have 0.5 million.
DISTINCT_BYTES = 2_000_000
# Allocated by the trainer per vocabulary entry, used or not.
ENTRY_BYTES = 70

SETTINGS = "tokenizer.json"
# Every kind of tokenizer has at least one file of these names.
_FILES = re.compile(
    r"tokenizer|vocab|merges\.txt|tekken|spiece|sentencepiece|.*\.(model|tiktoken)$"
)
# Long enough to detect a tokenizer with BPE dropout.
_PROBE = "What does it make of this text, and of \u0394, \u6f22\u5b57 and \U0001f642?\n" * 4
_WORD = re.compile(r"\w+|[^\w\s]+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with NFKC normalization on ``texts``.

    Ids 0, 1, 2 are ``<|sot|>``, ``<|eot|>``, ``<|pad|>``. Encoding prepends ``<|sot|>`` unless
    ``add_special_tokens=False``; decoding restores the NFKC form of the text exactly. The
    vocabulary has ``vocab_size`` entries, or fewer for a small text. Memory grows with the number
    of distinct words (see ``training_sample``).

    Raises:
        UserError: ``vocab_size`` is too small for the bytes, or too large for memory.
    """
    if vocab_size < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocab_size} entries is too small: 3 special tokens and 256 bytes "
            f"need at least {SMALLEST}"
        )
    needed = ENTRY_BYTES * vocab_size
    check_memory(needed, f"a vocabulary of {vocab_size:,} entries", "cpu", "choose a smaller one")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SOT, EOT, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SOT} $A",
        pair=f"{SOT} $A {SOT} $B",
        special_tokens=[(SOT, SOT_ID)],
    )
    return tokenizer


def training_sample(texts: Callable[[], Iterable[str]], size: int | None) -> Iterator[str]:
    """A sample of the corpus for the tokenizer, which bounds training time and memory.

    About 100 MB of text, or less if its distinct words would take too much memory. Texts are
    sampled evenly, by their hash.

    Args:
        texts: returns an iterable over all texts on every call.
        size: their approximate bytes; None: the sample is the beginning of the texts.
    """
    if size is None:
        return _beginning(texts())
    share = min(1.0, SAMPLE_BYTES / max(size, 1))
    while (fitting := _fitting(_sampled(texts(), share))) < 1:
        share *= 0.95 * fitting  # one pass is nearly always enough
    return _sampled(texts(), share)


def _sampled(texts: Iterable[str], share: float) -> Iterator[str]:
    return (text for text in texts if zlib.crc32(text.encode()) < share * 2**32)


def _fitting(texts: Iterable[str]) -> float:
    """The fraction of the texts, from the beginning, within the limit of distinct words."""
    words = _DistinctWords()
    fitting = total = 0
    for text in texts:
        total += len(text)
        if words.have_room_for(text):
            fitting = total
    return fitting / total if total else 1.0


def _beginning(texts: Iterable[str]) -> Iterator[str]:
    words = _DistinctWords()
    left = SAMPLE_BYTES
    for text in texts:
        left -= len(text.encode())
        if left < 0 or not words.have_room_for(text):
            return
        yield text


class _DistinctWords:
    """Distinct words so far, up to a total of ``DISTINCT_BYTES``."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._left = DISTINCT_BYTES

    def have_room_for(self, text: str) -> bool:
        if self._left >= 0:
            new = set(_WORD.findall(text)) - self._seen
            self._seen |= new
            self._left -= len("".join(new).encode())
        return self._left >= 0


def to_transformers(tokenizer: Tokenizer, context: int | None = None) -> "PreTrainedTokenizerFast":
    """Wrap as a transformers tokenizer, which ``save_pretrained`` writes beside the weights.

    Padding is on the left, for generation. ``context`` (tokens) becomes ``model_max_length``.
    """
    from transformers import PreTrainedTokenizerFast

    longest = {} if context is None else {"model_max_length": context}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SOT,
        eos_token=EOT,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **longest,
    )


def load_tokenizer(
    name: str | Path, model: Any = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerFast":
    """The tokenizer in a folder or hub repository (``org/model`` or ``org/model@revision``).

    With ``model``, a causal language model, it must be that model's: its vocabulary has to cover
    the tokenizer's ids, and a checkpoint of lumenspark 0.1 without a tokenizer gets GPT-2's.
    Without, it must be a fast tokenizer, as encoding a corpus needs.

    Raises:
        UserError: there is no such tokenizer, it is not usable, or the network is unavailable.
    """
    bare, revision = split_revision(str(name))
    if Path(bare).exists() and revision is None:
        folder = Path(bare)
    else:
        folder = fetch(bare, revision, weights=False).folder
    if model is not None:
        return _load_with_model(folder, model, trust_remote_code)
    tokenizer = _read_tokenizer(folder, None, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {name} has no fast form (tokenizer.json): choose another")
    return tokenizer


def _load_with_model(folder: Path, model: Any, trust_remote_code: bool) -> Any:
    from lumenspark.models.legacy_checkpoints import gpt2_tokenizer, has_gpt2_vocabulary

    if has_gpt2_vocabulary(model.config) and not has_tokenizer(folder):
        try:
            return gpt2_tokenizer()
        except ValueError as error:
            raise UserError(str(error)) from error
    tokenizer = _read_tokenizer(folder, model.config, trust_remote_code)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    added = set(tokenizer.get_added_vocab())
    # Tokens added later, such as a pad token, can lie beyond the embeddings and never be used.
    highest = max(
        (i for token, i in tokenizer.get_vocab().items() if token not in added), default=0
    )
    if highest >= vocabulary:
        raise UserError(
            f"the tokenizer in {folder} has ids up to {highest:,}, but the model has only "
            f"{vocabulary:,}: use the tokenizer that the model was trained with"
        )
    return tokenizer


def _read_tokenizer(folder: Path, config: Any, trust_remote_code: bool) -> Any:
    """The tokenizer in ``folder``; ``config`` is that of the model beside it, or None.

    Raises UserError if there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if not folder.is_dir():
        raise UserError(f"there is no tokenizer in {folder}: name a folder with a tokenizer.json")
    check_files(folder)
    if not (trust_remote_code or has_tokenizer(folder)):
        raise UserError(
            f"there is no tokenizer in {folder}: save one there (tokenizer.save_pretrained)"
        )
    given = {} if config is None else {"config": config}
    fix = "download its files again"
    with quiet(), reading(f"the tokenizer in {folder}", fix):
        if (folder / SETTINGS).is_file():
            check_growth(read_json(folder / SETTINGS, fix))
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code, **given
        )
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(f"a {type(tokenizer).__name__} is not a tokenizer")
        known = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
        ids = tokenizer(_PROBE)["input_ids"]
        tokenizer.decode(ids)
        if tokenizer(_PROBE)["input_ids"] != ids:
            raise ValueError("it encodes at random (BPE dropout)")
    if not known:  # created from config.json alone
        raise UserError(f"there is no tokenizer in {folder}: it needs a tokenizer.json")
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has tokenizer files."""
    return any(_FILES.match(path.name) for path in folder.iterdir())


def document_frame(tokenizer: "PreTrainedTokenizerFast") -> tuple[list[int], list[int]]:
    """The token ids that frame each document.

    BOS and EOS if they differ. A single token for both (GPT-2), or the only one of them, goes
    before each document: it ends the previous document and is context for the first token. Empty
    for a tokenizer with neither.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and end is not None and begin != end:
        return [begin], [end]
    only = end if begin is None else begin
    return ([] if only is None else [only]), []
