"""What is particular to low-rank models: what their slots hold, and the rank that layers use."""

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
    """A token in a slot: where it stands, its text, and its share in the slot (all sum to 1)."""

    position: int
    token: str
    share: float


@torch.no_grad()
def slot_contents(
    model: Any, text: Text, *, top: int = 5, tokenizer: Any = None
) -> list[list[list[list[HeldToken]]]]:
    """For each layer, head and slot its heaviest tokens at the end of ``text``, heaviest first.

    Slots hold the blocks of ``window`` tokens before the last two; a short text leaves them empty.
    Raises UserError for a model without slots, and for more than one text.
    """
    sizes = architecture_of(model).sizes
    if not sizes.slots:
        raise UserError("this model has no slots: its attention is dense, or its window alone")
    found = trace(model, text, ["blocks.*.attention.slots.write"], tokenizer=tokenizer)
    if len(found.ids) != 1:
        raise UserError(f"give one text, not {len(found.ids)}: slots are shown for one")
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
    """How many dimensions each linear layer in the blocks really uses, by the module's name.

    exp of the entropy of its singular values, taken as shares (Roy and Vetterli 2007): the full
    rank where all are equal, 1 where one is all, NaN where weights are not finite.
    """
    ranks = {}
    for name, module in model.named_modules():
        inside_a_block = ".layers." in name or ".h." in name
        if inside_a_block and hasattr(module, "to_dense"):  # LowRankLinear, from wherever loaded
            ranks[name] = _effective_rank(module.to_dense().weight)
        elif inside_a_block and is_linear(module):
            ranks[name] = _effective_rank(weight_of(module))
    # The factors of a low-rank layer are linear layers too, but what counts is their product.
    return {name: rank for name, rank in ranks.items() if name.rpartition(".")[0] not in ranks}


def _effective_rank(weight: Tensor) -> float:
    if not weight.isfinite().all():
        return float("nan")
    singular = torch.linalg.svdvals(weight.float())
    if not singular.any():
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())
