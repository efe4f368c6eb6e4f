"""peft looks layers up by name; this makes it adapt the last factor of a low-rank layer."""

import sys
from typing import Any


def patch_peft_lookup(low_rank: type) -> None:
    """Make peft, if it is imported, resolve the name of a low-rank layer to its factor ``U``.

    ``LoraConfig(target_modules=["q_proj"])`` matches a :class:`LowRankLinear`, a layer type that
    peft does not support. It does support the factor ``U``; the adapter is then merged into the
    factor and the rank stays the same. peft has no global hook for this, so its lookup function is
    wrapped.
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
