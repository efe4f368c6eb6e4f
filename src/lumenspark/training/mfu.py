"""How fast a recipe trains here: tokens a second, and their share of what the machine multiplies.

What counts are the products of matrices that the model's definition asks for, forward and backward:
two operations for each multiplication with its addition. For a dense decoder that is, per token,

    6 * (weights of the linear layers) + 12 * layers * context * width

The tied output layer is a linear layer and counts once; looking up embeddings multiplies nothing.
The second term is attention: queries by keys, and weights by values, over the whole square of the
context (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, counts the same).
"""

import copy
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from lumenspark.training.timing import seconds_per_step
from lumenspark.training.trainer import Trainer

# Rows and columns of the matrices whose product sets the peak: large enough to keep all units busy.
PRODUCT = 2048
PRODUCT_ON_A_CARD = 8192


@dataclass(frozen=True)
class Speed:
    """Training in steady state, after compiling and without validations and checkpoints."""

    tokens_per_second: float
    flops_per_token: float
    peak: float  # FLOP/s of large products in the precision that the training multiplies in

    @property
    def mfu(self) -> float:
        return self.tokens_per_second * self.flops_per_token / self.peak


def training_speed(trainer: Trainer, rounds: int = 3, steps: int = 20) -> Speed:
    """Measure whole steps of ``trainer``, optimizers included, and undo them.

    Steps and peak take turns, ``rounds`` times, so that other work on the machine slows both
    alike; medians count. A round is 3 steps to warm up and ``steps`` that are timed.
    """
    recipe = trainer.recipe
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    seconds, peaks = [], []
    for _ in range(rounds):
        seconds.append(seconds_per_step(trainer, timed=steps))
        peaks.append(matmul_peak(dtype, recipe.device))
    return Speed(
        tokens_per_second=recipe.tokens_per_step / statistics.median(seconds),
        flops_per_token=flops_per_token(trainer.model, recipe.model.context),
        peak=statistics.median(peaks),
    )


def matmul_peak(dtype: torch.dtype, device: str = "cpu", timed: int = 10) -> float:
    """FLOP/s of a product of two matrices of 2048 x 2048, the median of ``timed``.

    On a graphics card the matrices are 8192 x 8192, and it is the card's peak.
    """
    size = PRODUCT if device == "cpu" else PRODUCT_ON_A_CARD
    left, right, product = torch.randn(3, size, size, device=device).to(dtype)
    times = []
    for _ in range(timed + 2):  # the first two warm up
        began = time.perf_counter()
        torch.mm(left, right, out=product)
        float(product[0, 0])  # a graphics card has finished when its result can be read
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[2:])


def flops_per_token(model: Any, context: int) -> float:
    """Operations of the model's matrix products, forward and backward, for each token of a window.

    ``context`` is the window's length. Counted by torch on a twin of the model without numbers
    (device ``meta``), with attention as explicit products.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        twin = type(model)(copy.deepcopy(model.config)).train()
        twin.set_attn_implementation("matmul")
        windows = torch.zeros(1, context + 1, dtype=torch.long)
        logits = twin(input_ids=windows[:, :-1], use_cache=False).logits
        functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).backward()
    return counter.get_total_flops() / context
