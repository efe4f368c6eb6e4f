"""Fine-tuning after compression: AdamW on the train split, for a given time."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from lumenspark.data.windows import TrainingWindows
from lumenspark.device import choose_precision
from lumenspark.errors import UserError
from lumenspark.recipe import OptimOptions
from lumenspark.reporter import Reporter
from lumenspark.training.losses import make_loss
from lumenspark.training.lr_schedule import lr_factor, set_lr
from lumenspark.training.optimizers import build_optimizers
from lumenspark.training.step import optimizer_step

LEARNING_RATE = 1e-3
TOKENS_PER_STEP = 4096
TIMED_STEPS = 3


def finetune(
    model: Any, windows: TrainingWindows, seconds: float, lr: float, reporter: Reporter
) -> int:
    """Train all weights for about ``seconds``; the learning rate decays from ``lr`` to zero.

    The number of steps follows from the time of a few steps, measured first. Weights in float16 or
    bfloat16 are float32 during fine-tuning and are cast back.

    Returns the number of steps. Raises UserError for a non-finite loss or gradient.
    """
    device = model.device.type
    dtypes = {parameter: parameter.dtype for parameter in model.parameters()}
    options = OptimOptions(name="adamw", adamw_lr=lr)
    rows = max(1, TOKENS_PER_STEP // windows.context)
    for parameter in dtypes:  # not the buffers, such as rotary frequencies
        parameter.data = parameter.data.float()
    model.train()
    loss_of = make_loss(model, device, bf16=choose_precision("auto", device) == "bf16")

    def step(number: int) -> float:
        torch.manual_seed(number)
        batch = torch.from_numpy(windows.batch(number * rows, rows)).to(device)
        micro_batches = [(batch, None)]
        result = optimizer_step(
            loss_of, micro_batches, model.parameters(), optimizers, options.max_grad_norm
        )
        if not result.is_finite:
            raise UserError(f"fine-tuning diverged at step {number}: use a lower learning rate")
        return result.loss

    optimizers = build_optimizers(model, options)
    set_lr(optimizers, options, 0.0)  # timing must not change the weights
    steps = max(1, int(seconds / median(_seconds_of(step, n) for n in range(TIMED_STEPS))))
    optimizers = build_optimizers(model, options)
    began = time.monotonic()
    with reporter:
        reporter.start(0, steps)
        for number in range(steps):
            set_lr(optimizers, options, lr_factor(number, steps, options))
            loss, elapsed = step(number), time.monotonic() - began
            throughput = (number + 1) * rows * windows.context / elapsed
            metrics = {"loss": loss, "tokens_per_second": throughput, "seconds": elapsed}
            reporter.step(number + 1, steps, metrics)
    model.zero_grad()
    for parameter, dtype in dtypes.items():
        parameter.data = parameter.data.to(dtype)
    model.eval()
    return steps


def _seconds_of(step: Callable[[int], float], number: int) -> float:
    began = time.perf_counter()
    step(number)
    return time.perf_counter() - began
