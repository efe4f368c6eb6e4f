"""Training throughput, and model FLOPs utilisation (MFU) on this machine.

FLOPs are those of the matrix products in the model's definition, forward and backward, with two
FLOPs per multiply-add. For a dense decoder this is, per token,

    6 * (weights of the linear layers) + 12 * layers * context * width

The tied output layer counts once; embedding lookups have no FLOPs. The second term is attention:
queries times keys, and weights times values, over all pairs of positions, masked ones included, as
in PaLM (Chowdhery et al. 2022, arXiv 2204.02311).
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

# Size of the square matrices whose product measures the peak: large enough to saturate the device.
MATMUL_SIZE = 2048
MATMUL_SIZE_GPU = 8192


@dataclass(frozen=True)
class Throughput:
    """Training in steady state: after compilation, without validation and checkpoints."""

    tokens_per_second: float
    flops_per_token: float
    peak: float  # FLOP/s of large matrix products in the precision of the training

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the fraction of the peak that the model's products reach."""
        return self.tokens_per_second * self.flops_per_token / self.peak


def measure_throughput(trainer: Trainer, rounds: int = 3, steps: int = 20) -> Throughput:
    """Measure whole steps of ``trainer``, optimizers included, and undo them.

    Steps and peak alternate, ``rounds`` times, so that other load affects both. The results are
    medians. A round has 3 warm-up steps and ``steps`` timed ones.
    """
    recipe = trainer.recipe
    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
    seconds, peaks = [], []
    for _ in range(rounds):
        seconds.append(seconds_per_step(trainer, timed=steps))
        peaks.append(matmul_peak(dtype, recipe.device))
    return Throughput(
        tokens_per_second=recipe.tokens_per_step / statistics.median(seconds),
        flops_per_token=flops_per_token(trainer.model, recipe.model.context),
        peak=statistics.median(peaks),
    )


def matmul_peak(dtype: torch.dtype, device: str = "cpu", timed: int = 10) -> float:
    """FLOP/s of a product of two matrices of 2048 x 2048, the median of ``timed``.

    On a GPU the matrices are 8192 x 8192.
    """
    size = MATMUL_SIZE if device == "cpu" else MATMUL_SIZE_GPU
    left, right, product = torch.randn(3, size, size, device=device).to(dtype)
    times = []
    for _ in range(timed + 2):  # the first two warm up
        began = time.perf_counter()
        torch.mm(left, right, out=product)
        float(product[0, 0])  # waits for the GPU
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[2:])


def flops_per_token(model: Any, context: int) -> float:
    """FLOPs of the model's matrix products, forward and backward, per token of a full window.

    ``context`` is the window's length. Counted by torch on a copy of the model on the meta device,
    with attention as explicit products.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        twin = type(model)(copy.deepcopy(model.config)).train()
        twin.set_attn_implementation("matmul")
        windows = torch.zeros(1, context + 1, dtype=torch.long)
        logits = twin(input_ids=windows[:, :-1], use_cache=False).logits
        functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).backward()
    return counter.get_total_flops() / context
