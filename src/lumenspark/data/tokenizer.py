"""Byte-level BPE, learned from a bounded sample of the training text; or an existing tokenizer."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lumenspark.data.hub import reach
from lumenspark.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SOT, EOT, PAD = "<|sot|>", "<|eot|>", "<|pad|>"
SOT_ID, EOT_ID, PAD_ID = 0, 1, 2
SMALLEST = 3 + 256  # the special tokens and every byte

SAMPLE_BYTES = 100_000_000
# The trainer keeps about 125 bytes for every byte of every distinct word (measured with words of
# 4 to 32 bytes), so this many are about 250 MB. The first 10 MB of WikiText-2 have 0.5 million.
DISTINCT_BYTES = 2_000_000

_WORD = re.compile(r"\w+|[^\w\s]+")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE with NFKC from ``texts``, in which no text is out of vocabulary.

    Ids 0, 1, 2 are ``<|sot|>``, ``<|eot|>``, ``<|pad|>``. Encoding puts ``<|sot|>`` first unless
    told ``add_special_tokens=False``; decoding gives back the NFKC form of the text exactly. The
    tokenizer has ``vocab_size`` entries, or fewer if the text is too poor for as many:
    ``get_vocab_size()`` tells. Memory grows with the distinct words (see ``training_sample``).

    Raises:
        UserError: ``vocab_size`` has no room for the bytes.
    """
    if vocab_size < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocab_size} entries is too small: 3 special tokens and 256 bytes "
            f"need {SMALLEST} at least"
        )
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
    """What the tokenizer learns from: a sample that bounds the trainer's time and memory.

    It is about 100 MB of the texts, or less where the distinct words of that would take too much
    memory. Each text is kept or not by its own hash, so the sample is spread evenly.

    Args:
        texts: gives all texts, anew with each call.
        size: their bytes, roughly; where it is None the sample is their beginning.
    """
    if size is None:
        return _beginning(texts())
    share = min(1.0, SAMPLE_BYTES / max(size, 1))
    while (fitting := _fitting(_kept(texts(), share))) < 1:
        share *= 0.95 * fitting  # words grow no faster than text, so once is nearly always enough
    return _kept(texts(), share)


def _kept(texts: Iterable[str], share: float) -> Iterator[str]:
    return (text for text in texts if zlib.crc32(text.encode()) < share * 2**32)


def _fitting(texts: Iterable[str]) -> float:
    """How much of the texts, from their beginning, has no more distinct words than allowed."""
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
    """The words seen so far, as long as all of them together are within the bound."""

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
    """Our tokenizer as transformers knows them; ``save_pretrained`` writes it beside weights.

    Padding goes to the left, as generation needs it. ``context`` (tokens) is written down as the
    longest input of the model.
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


def load_tokenizer(name: str) -> "PreTrainedTokenizerFast":
    """An existing tokenizer: a folder, or a model on the hub (from the hub's cache if it is there).

    Raises:
        UserError: there is none of that name, it is not a fast one, or the network is missing.
    """
    from transformers import AutoTokenizer

    here = Path(name).exists() or _cached(name)
    if not here:
        reach("model", name)  # transformers needs most of a minute to see that there is no network
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=here)
    except (OSError, ValueError) as error:
        raise UserError(f"there is no tokenizer in {name}: {first_line(error)}") from None
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made up from a config.json alone
        raise UserError(f"there is no tokenizer in {name}: it needs a tokenizer.json")
    if not tokenizer.is_fast:
        raise UserError(f"the tokenizer {name} has no fast form (tokenizer.json): choose another")
    return tokenizer


def _cached(name: str) -> bool:
    """Whether the tokenizer of that hub model is in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "tokenizer.json"), str)
    except HFValidationError:  # no possible name on the hub, which will say so
        return False


def document_frame(tokenizer: "PreTrainedTokenizerFast") -> tuple[list[int], list[int]]:
    """The ids before and after each document, so that documents stay apart.

    With two special tokens for it they are the beginning and the end. With one that serves as
    both (GPT-2), or only one of them, that one comes before each document: it ends the document
    before, and gives the first token something to be predicted from. With none, nothing does.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    if begin is not None and end is not None and begin != end:
        return [begin], [end]
    only = end if begin is None else begin
    return ([] if only is None else [only]), []
