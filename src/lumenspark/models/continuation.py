"""Text generation: prompts to token ids, and the generated ids to text, at once or streamed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
DECODED_TOKENS = 64  # decoded at once: far more than one word or character takes


class Continuation:
    """The text of the tokens after a prompt, in pieces that are final.

    The pieces of :meth:`add` and the last one of :meth:`end` give the same text whether tokens
    arrive one by one or all at once. No token is decoded alone: some tokenizers omit the space
    before a first word, and a character can span several tokens. Prompt and continuation are
    therefore decoded together and the prompt is cut off. A piece is held back while later tokens
    can still change it.
    """

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)  # the newest ones, which are decoded each time
        self._decoded = self._decode(self._ids)
        self._read = len(
            self._decoded
        )  # characters of it that belong to the prompt or are in _text
        self._text = ""  # final, except for spaces that the tokenizer cleans up
        self._given = 0  # characters of the cleaned text already returned

    def add(self, ids: list[int]) -> str:
        """The text that these tokens make final; often empty."""
        self._ids += ids
        decoded = self._decode(self._ids)
        self._decoded = decoded
        if self._ends_in_bytes():
            return ""
        self._take(decoded.rstrip(REPLACEMENT))  # an incomplete character
        self._forget_oldest()
        text = self._cleaned()
        # Cleaning changes spaces at the two newest words at most: "do n ' t" becomes "don't".
        return self._give(text.rsplit(" ", 2)[0] if _cleans_up(self._tokenizer) else text)

    def end(self) -> str:
        """The rest."""
        self._take(self._decoded)
        return self._give(self._cleaned())

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _ends_in_bytes(self) -> bool:
        """Byte tokens are decoded as a run, which is text only once it is complete.

        Special tokens are skipped and do not end the run.
        """
        special = set(self._tokenizer.all_special_ids)
        shown = next((token for token in reversed(self._ids) if token not in special), None)
        token = None if shown is None else self._tokenizer.convert_ids_to_tokens(shown)
        return isinstance(token, str) and BYTE_TOKEN.fullmatch(token) is not None

    def _take(self, decoded: str) -> None:
        self._text += decoded[self._read :]
        self._read = max(self._read, len(decoded))

    def _forget_oldest(self) -> None:
        """Decode only the newest tokens from now on, if they decode to the end of the text."""
        if len(self._ids) < 2 * DECODED_TOKENS:
            return
        newest = self._decode(self._ids[-DECODED_TOKENS:])
        before = len(self._decoded) - len(newest)
        if self._decoded.endswith(newest) and before <= self._read:
            self._ids, self._decoded = self._ids[-DECODED_TOKENS:], newest
            self._read -= before

    def _cleaned(self) -> str:
        if not _cleans_up(self._tokenizer):
            return self._text
        return str(self._tokenizer.clean_up_tokenization(self._text))

    def _give(self, text: str) -> str:
        piece = text[self._given :]
        self._given += len(piece)
        return piece


def continuation(tokenizer: Any, row: list[int], start: int) -> str:
    """The text of ``row`` after its first ``start`` ids, which are the prompt."""
    text = Continuation(tokenizer, row[:start])
    return text.add(row[start:]) + text.end() if row[start:] else ""


@dataclass(frozen=True)
class EncodedPrompts:
    """Prompts, with their token ids and attention mask (B, T), padded on the left."""

    texts: list[str]
    ids: Tensor
    mask: Tensor


def encode_prompts(tokenizer: Any, prompts: list[str], device: Any) -> EncodedPrompts:
    """Raises ValueError for a prompt that is not text, or has no tokens."""
    ids, mask = encode_padded(tokenizer, prompts)
    return EncodedPrompts(prompts, ids.to(device), mask.to(device))


def generate_texts(
    generate: Callable[..., Any],
    tokenizer: Any,
    prompts: EncodedPrompts,
    *args: Any,
    end_ids: Any = None,
    **kwargs: Any,
) -> tuple[Any, list[str]]:
    """The output of ``generate`` of transformers, and each of its rows as text with its prompt.

    Further arguments are those of ``generate``. ``end_ids``, one id or several, end a row, which
    is padded after them.
    """
    output = generate(prompts.ids, *args, attention_mask=prompts.mask, **kwargs)
    rows = output if isinstance(output, Tensor) else output.sequences
    start, copies = prompts.ids.shape[1], len(rows) // len(prompts.texts)
    texts = [
        prompts.texts[index // copies]
        + continuation(tokenizer, _until_end(row.tolist(), start, end_ids), start)
        for index, row in enumerate(rows)
    ]
    return output, texts


def _until_end(row: list[int], start: int, end_ids: Any) -> list[int]:
    """``row`` up to the first of ``end_ids`` at or after ``start``, without the padding."""
    ends = torch.as_tensor([] if end_ids is None else end_ids).flatten().tolist()
    first = next((place for place in range(start, len(row)) if row[place] in ends), len(row))
    return row[: first + 1]


def _cleans_up(tokenizer: Any) -> bool:
    """Whether the tokenizer removes spaces before punctuation; transformers does not for BPE."""
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    is_bpe = backend is not None and type(backend.model).__name__ == "BPE"
    return not is_bpe or getattr(tokenizer, name, False)


def encode_padded(tokenizer: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of the prompts, padded on the left: (B, T) each.

    Raises ValueError for a prompt that is not text, or has no tokens.
    """
    for prompt in prompts:
        check_text(prompt)
    # verbose=False: texts past the context are truncated or rejected later.
    rows = [tokenizer(prompt, verbose=False)["input_ids"] for prompt in prompts]
    if not rows or not all(rows):
        raise ValueError("a prompt has no tokens: give at least one word")
    width = max(map(len, rows))
    ids = [[padding_id(tokenizer)] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def check_text(prompt: object) -> None:
    """Raises ValueError unless ``prompt`` is a string of whole characters."""
    if not isinstance(prompt, str):
        raise ValueError(f"a prompt is a {type(prompt).__name__}: it must be a string")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} of a prompt is half a character "
            f"({prompt[error.start]!r}): read the text as UTF-8, or with errors='replace'"
        ) from None


def padding_id(tokenizer: Any) -> int:
    """The id to pad with: the pad token, else any special token, else 0.

    Padding is masked. A special token is preferred because finished rows are padded with it and
    decoding skips it.
    """
    special = (tokenizer.pad_token_id, tokenizer.eos_token_id, *tokenizer.all_special_ids)
    return int(next((token_id for token_id in special if token_id is not None), 0))
