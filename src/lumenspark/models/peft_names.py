"""peft adapts layers by name; a low-rank layer is adapted in its last factor."""

import sys
from typing import Any


def let_peft_reach(low_rank: type) -> None:
    """Let peft, where it is loaded, take the factor ``U`` where it is told the layer's name.

    ``LoraConfig(target_modules=["q_proj"])`` finds a :class:`LowRankLinear` under that name, which
    is no kind of layer that peft knows. Its last factor is: what is learned there is merged
    into the factor, and the rank stays as it is. peft has no way of being told so, other than in
    each LoraConfig, so the function that looks up a name there is wrapped.
    """
    tuners: Any = sys.modules.get("peft.tuners.tuners_utils")
    look_up = getattr(tuners, "_get_submodules", None)
    if look_up is None or low_rank in getattr(look_up, "low_rank_layers", ()):
        return

    def look_up_factor(model: Any, key: str) -> tuple[Any, Any, str]:
        parent, target, name = look_up(model, key)
        if isinstance(target, low_rank):
            return target, target.U, "U"  # type: ignore[attr-defined]
        return parent, target, name

    look_up_factor.low_rank_layers = (  # type: ignore[attr-defined]
        low_rank,
        *getattr(look_up, "low_rank_layers", ()),
    )
    tuners._get_submodules = look_up_factor
