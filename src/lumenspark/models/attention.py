"""Dense causal attention as functions on tensors: the plain definition, the fast path, the weights.

Shapes: queries (B, H, T, D), keys and values (B, H, S, D) with S >= T, the T queries being the
last T of the S positions. A mask is ``None`` (plain causal), boolean (True: may be seen) or
additive float, of a shape that broadcasts to (B, H, T, S).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface


def attention_naive(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The definition: each query's softmax over the positions up to its own. A loop, for tests.

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
    """What each query attends to: (B, H, T, S), rows sum to 1, in the dtype of the query.

    A row with nothing to see (a query that is padding) is all zeros, not NaN.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is None:
        mask = causal_mask(query.shape[2], key.shape[2], query.device)
    if mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    if mask.dtype == torch.bool:
        weights = weights.masked_fill(~mask, 0.0)
    return weights


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """(T, S) boolean: the T queries are the last of the S positions, and see up to themselves."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


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
    """Attention by two batched products, in the form of transformers' attention interface.

    Serves the names ``eager`` and ``matmul``. Short windows on a processor train faster this way
    than through torch's fused attention, whose backward pass there is slow (``docs/log.md``).

    Returns (B, T, H, D) and the weights (B, H, T, S).
    """
    weights = attention_weights(query, key, attention_mask, scaling)
    dropped = functional.dropout(weights, dropout, training=module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), weights


# ``matmul`` takes the boolean mask of ``sdpa`` (None where plain causal is meant).
AttentionInterface.register("matmul", matmul_attention_forward)
AttentionMaskInterface.register("matmul", sdpa_mask)
