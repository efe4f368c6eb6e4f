"""Text to token ids on the model's device, and token ids back to strings."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.models.continuation import encode_padded
from lumenspark.models.truncation import positions_from_mask

Text = str | list[str] | list[int] | Tensor


@dataclass(frozen=True)
class Inputs:
    """Token ids (B, T), and their mask (B, T) boolean, False at padding; None without padding."""

    ids: Tensor
    mask: Tensor | None
    tokenizer: Any

    def arguments(self) -> dict[str, Tensor]:
        """Keyword arguments of a model's forward pass."""
        if self.mask is None:
            return {"input_ids": self.ids}
        # Explicit positions: GPT-2 and Llama would count padding.
        positions = positions_from_mask(self.mask)
        return {
            "input_ids": self.ids,
            "attention_mask": self.mask.long(),
            "position_ids": positions,
        }


def read_inputs(
    model: Any, text: Text, tokenizer: Any = None, attention_mask: Tensor | None = None
) -> Inputs:
    """Encode ``text`` for ``model``; ``tokenizer`` defaults to the one saved with the weights.

    Strings of unequal length are padded on the left. Raises UserError for text without tokens or
    longer than the context, and if there is no tokenizer.
    """
    tokenizer = find_tokenizer(model) if tokenizer is None else tokenizer
    texts = [text] if isinstance(text, str) else text
    mask: Tensor | None
    if isinstance(texts, list) and any(isinstance(row, str) for row in texts):
        if attention_mask is not None:
            raise UserError("attention_mask is for token ids: strings are padded automatically")
        ids, mask = _encode(tokenizer, texts)
    else:
        ids, mask = _read_ids(text, attention_mask)
        check_range(ids, model.get_input_embeddings().num_embeddings)
    context = getattr(model.config, "max_position_embeddings", None)
    longest = ids.shape[1] if mask is None else int(mask.sum(1).max())
    if context is not None and longest > context:
        raise UserError(f"{longest} tokens exceed the context of {context}: give fewer")
    mask = None if mask is None or mask.all() else mask.bool().to(model.device)
    return Inputs(ids.to(model.device), mask, tokenizer)


def find_tokenizer(model: Any) -> Any:
    """The tokenizer saved with the weights, or None. Cached per model."""
    if model not in _tokenizers:
        _tokenizers[model] = _load_tokenizer(model) if model.name_or_path else None
    return _tokenizers[model]


def token_pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each token as a string; its id if there is no tokenizer."""
    if tokenizer is None:
        return [str(token_id) for token_id in ids]
    return [_piece(tokenizer, token_id) for token_id in ids]


def text_pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """Tokens as strings that join to the text; ids if there is no tokenizer.

    A character split over several tokens belongs to the last of them; the others are empty.
    """
    if tokenizer is None:
        return token_pieces(tokenizer, ids)
    pieces, begin = [], 0
    for end in range(1, len(ids) + 1):
        cut = ids[begin:end]
        piece = _piece(tokenizer, cut[0]) if len(cut) == 1 else str(tokenizer.decode(cut))
        if piece.endswith(NO_CHARACTER) and end < len(ids) and len(cut) < LONGEST_CHARACTER:
            pieces.append("")
            continue
        pieces.append(piece)
        begin = end
    return pieces


def check_range(ids: Tensor, vocabulary: int) -> None:
    """Raises UserError for ids outside the vocabulary."""
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or highest >= vocabulary:
        raise UserError(
            f"token ids of this model range from 0 to {vocabulary - 1}, but these range from "
            f"{lowest} to {highest}"
        )


NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # the decoding of incomplete characters
LONGEST_CHARACTER = 4  # bytes in UTF-8, hence at most 4 tokens
_tokenizers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _load_tokenizer(model: Any) -> Any:
    from lumenspark.data.tokenizer import load_tokenizer

    try:
        return load_tokenizer(model.name_or_path, model)
    except UserError:
        return None


def _encode(tokenizer: Any, texts: list[Any]) -> tuple[Tensor, Tensor]:
    if tokenizer is None:
        raise UserError(
            "there is no tokenizer with this model's weights: pass tokenizer=, or token ids "
            "instead of text"
        )
    try:
        return encode_padded(tokenizer, texts)
    except ValueError as error:
        raise UserError(str(error)) from error


def _read_ids(given: Any, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unequal length, None, …
        raise UserError(
            "token ids must be integers of shape (tokens,) or (rows, tokens): pad rows of unequal "
            "length, and pass attention_mask"
        ) from error
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or not ids.numel() or ids.dtype not in (torch.int32, torch.int64):
        raise UserError(
            "token ids must be integers of shape (tokens,) or (rows, tokens), at least one: these "
            f"are {ids.dtype} of shape {tuple(ids.shape)}"
        )
    mask = None if mask is None else torch.as_tensor(mask)
    mask = mask[None] if mask is not None and mask.ndim == 1 else mask
    if mask is not None and mask.shape != ids.shape:
        raise UserError(
            f"attention_mask has shape {tuple(mask.shape)}: pass one of shape {tuple(ids.shape)}"
        )
    return ids, mask


def _piece(tokenizer: Any, token_id: int) -> str:
    stored = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(stored, str) and stored.startswith("▁"):  # decode() would drop this space
        return stored.replace("▁", " ")
    return str(tokenizer.decode([token_id]))
