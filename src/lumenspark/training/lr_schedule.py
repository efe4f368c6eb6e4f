"""The learning-rate schedule: linear warm-up, constant, linear cooldown to zero."""

from torch.optim import Optimizer

from lumenspark.recipe import OptimOptions
from lumenspark.training.muon import Muon


def lr_factor(step: int, steps: int, options: OptimOptions) -> float:
    """The learning rate at ``step`` (0 is the first) as a factor of its peak, from 0 to 1."""
    warmup = max(1.0, options.warmup * steps)
    rising = (step + 1) / warmup
    falling = (steps - step) / max(1.0, options.cooldown * (steps - warmup))
    return min(1.0, rising, falling)


def set_lr(optimizers: list[Optimizer], options: OptimOptions, factor: float) -> None:
    """Set the learning rate of every parameter group to ``factor`` times its peak."""
    for optimizer in optimizers:
        peak = options.muon_lr if isinstance(optimizer, Muon) else options.adamw_lr
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
