"""Dense causal attention as functions on tensors: the definition, the fast path, the weights.

Shapes: queries (B, H, T, D), keys and values (B, H, S, D), S >= T; the queries are the last T of
the S positions. A mask is boolean (True: visible) or additive float and broadcasts to
(B, H, T, S). Without a mask (``None``), a single query attends to every position, and
several queries are the first T of the S positions (T = S except in a static cache).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface


def naive_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The definition, as a loop over queries: softmax over the positions up to each. For tests.

    Returns (B, H, T, D).
    """
    offset = key.shape[2] - query.shape[2]
    outputs = []
    for t in range(query.shape[2]):
        seen = slice(0, offset + t + 1)
        scores = (key[:, :, seen] * query[:, :, t, None]).sum(-1) * scaling  # (B, H, seen)
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        outputs.append((weights[..., None] * value[:, :, seen]).sum(2))
    return torch.stack(outputs, dim=2)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Attention weights (B, H, T, S) in the dtype of the query; rows sum to 1.

    A row without visible positions (a query at padding) is zero, not NaN.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is None:
        queries, keys = query.shape[2], key.shape[2]
        mask = causal_mask(queries, keys, keys - 1 if queries == 1 else 0, query.device)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    if mask.dtype == torch.bool:
        weights = weights.masked_fill(~mask, 0.0)
    return weights


def causal_mask(queries: int, keys: int, past: int, device: torch.device) -> Tensor:
    """(T, S) boolean: query t attends to the keys up to past + t."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(past)


def dense_mask(mask: Tensor | BlockMask | None) -> Tensor | None:
    """The mask in the form of :func:`attention_weights`; converts those of ``flex_attention``."""
    if not isinstance(mask, BlockMask):
        return mask
    batch, heads, queries, keys = mask.shape
    return create_mask(mask.mask_mod, batch, heads, queries, keys, device=mask.kv_indices.device)


def matmul_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention by two batched products, under transformers' attention interface.

    Registered as ``matmul``, and the fallback for ``eager``. On a CPU short contexts train faster
    this way than with torch's fused attention, whose backward pass is slow (``docs/log.md``).

    Returns (B, T, H, D) and the weights (B, H, T, S).
    """
    weights = attention_weights(query, key, attention_mask, scaling)
    dropped = functional.dropout(weights, dropout, training=module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), weights


def dense_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float,
    output_attentions: bool,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention by the implementation named in ``module.config``.

    ``module`` is the attention layer, with ``config`` and ``scaling``; ``attention_mask`` has the
    form of that implementation.

    Returns (B, T, H, D) and, for ``output_attentions``, the weights (B, H, T, S). If the
    implementation returns no weights they are computed separately: the output stays the same.
    """
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config._attn_implementation, matmul_attention_forward
    )
    output, weights = attend(
        module, query, key, value, attention_mask, scaling=module.scaling, dropout=dropout
    )
    if output_attentions and weights is None:
        weights = attention_weights(query, key, dense_mask(attention_mask), module.scaling)
    return output, weights if output_attentions else None


# ``matmul`` takes the boolean mask of ``sdpa`` (None for plain causal attention).
AttentionInterface.register("matmul", matmul_attention_forward)
AttentionMaskInterface.register("matmul", sdpa_mask)
