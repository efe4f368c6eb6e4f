"""Low-rank models: contents of attention slots, and effective ranks of linear layers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.inputs import Text
from lumenspark.inspect.trace import trace
from lumenspark.models.module_ranks import is_linear, weight_of


@dataclass(frozen=True)
class HeldToken:
    """A token in a slot: its position, text, and share of the slot. Shares of a slot sum to 1."""

    position: int
    token: str
    share: float


@torch.no_grad()
def slot_contents(
    model: Any, text: Text, *, top: int = 5, tokenizer: Any = None
) -> list[list[list[list[HeldToken]]]]:
    """The ``top`` tokens in each layer, head and slot at the end of ``text``, largest share first.

    Slots hold all blocks of ``window`` tokens but the last two; after a short text they are empty.
    Raises UserError for a model without slots, and for several texts.
    """
    sizes = architecture_of(model).sizes
    if not sizes.slots:
        raise UserError("this model has no slots: its attention is dense or sliding-window only")
    found = trace(model, text, ["blocks.*.attention.slots.write"], tokenizer=tokenizer)
    if len(found.ids) != 1:
        raise UserError(f"give one text, not {len(found.ids)}")
    window = model.config.window
    written = max(0, ((found.ids.shape[1] - 1) // window - 1) * window)
    tokens = found.tokens[0]

    def heaviest(weights: Tensor) -> list[HeldToken]:
        shares = weights / weights.sum()
        best = shares.topk(min(top, len(shares)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [HeldToken(place, tokens[place], share) for place, share in pairs]

    return [
        [[heaviest(slot) for slot in head[:written].T] if written else [] for head in layer[0]]
        for layer in found.tensors.values()
    ]


@torch.no_grad()
def effective_ranks(model: Any) -> dict[str, float]:
    """The effective rank of each linear layer in the blocks, by module name.

    exp of the entropy of the normalised singular values (Roy and Vetterli 2007): the full rank if
    all are equal, 1 if only one is nonzero, NaN if weights are not finite.
    """
    ranks = {}
    for name, module in model.named_modules():
        inside_a_block = ".layers." in name or ".h." in name
        if inside_a_block and hasattr(module, "to_dense"):  # duck-typed LowRankLinear
            ranks[name] = _effective_rank(module.to_dense().weight)
        elif inside_a_block and is_linear(module):
            ranks[name] = _effective_rank(weight_of(module))
    # Drop the factors of low-rank layers: only their product counts.
    return {name: rank for name, rank in ranks.items() if name.rpartition(".")[0] not in ranks}


def _effective_rank(weight: Tensor) -> float:
    if not weight.isfinite().all():
        return float("nan")
    singular = torch.linalg.svdvals(weight.float())
    if not singular.any():
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())
