"""Estimates of the time and memory of a training here, from parts of a few steps."""

import statistics
import sys
import time
from dataclasses import dataclass

import torch

from lumenspark.device import attention_for, choose_device, choose_precision
from lumenspark.memory import training_bytes
from lumenspark.recipe import Recipe
from lumenspark.reporter import Reporter
from lumenspark.training.budget import fit_budget
from lumenspark.training.losses import make_loss
from lumenspark.training.model_factory import NO_TOKENS, model_of
from lumenspark.training.setup import set_up
from lumenspark.training.teachers import TIMED_TOKENS, seconds_to_sample
from lumenspark.training.timing import Costs
from lumenspark.training.trainer import Trainer

# FLOPs of one timed pass: all of a step of a few million parameters, part of one of a large model.
WORK = {"cpu": 5e10, "mps": 1e12, "cuda": 1e14}
FEW_TOKENS = 64  # of a window that is too long to be run as a whole
REPEAT = 3


@dataclass(frozen=True)
class Estimate:
    """Cost of a recipe here. Times in seconds, memory in bytes.

    ``seconds``: everything, set-up and teachers included; ``sampling``: of all teachers.
    """

    parameters: int
    train_tokens: int
    vocab_size: int
    recipe: Recipe  # with the steps that fit into its budget
    set_up: float
    seconds_per_step: float
    sampling: float
    seconds: float
    memory: int


def estimate(
    recipe: Recipe, reporter: Reporter | None = None, started: float | None = None
) -> Estimate:
    """Time parts of a few steps of ``recipe`` here, without torch.compile; no run is made.

    It takes seconds for models of every size. A budget counts from ``started``
    (``time.monotonic()``; now unless given), and the estimate stays within it.

    Raises UserError where a budget is over before the first step.
    """
    started = time.monotonic() if started is None else started
    reporter = reporter or Reporter()
    setup = set_up(recipe, reporter, dry_run=True)
    parameters = list(setup.model.parameters())
    costs = quick_costs(Trainer(setup, reporter))
    used = time.monotonic() - started
    recipe = fit_budget(setup, started, reporter, costs=costs).recipe
    distill = recipe.distill
    steps = recipe.train.steps + distill.teachers * distill.steps
    sampling = distill.teachers * costs.sampling
    memory = training_bytes(recipe, setup.model)
    return Estimate(
        parameters=sum(parameter.numel() for parameter in parameters),
        train_tokens=len(setup.tokens.splits["train"].ids),
        vocab_size=setup.tokens.vocab_size,
        recipe=recipe,
        set_up=used,
        seconds_per_step=costs.step,
        sampling=sampling,
        seconds=used + steps * costs.whole_step(recipe) + sampling,
        memory=max(memory, peak_memory(recipe.device)),
    )


def quick_costs(trainer: Trainer) -> Costs:
    """Costs extrapolated from parts of a step, which change the weights of ``trainer``.

    Timed are forward and backward of a few windows, the optimizers on one block and on what is
    outside the blocks, and sampling of a few tokens where there are teachers. A validation counts a
    third of a forward and backward pass for each window. Records are a few percent, and not timed.
    """
    recipe, options = trainer.recipe, trainer.recipe.train
    parameters = sum(parameter.numel() for parameter in trainer.parameters)
    work = WORK[recipe.device] / parameters  # six FLOPs per parameter and token, forward: two
    window = _seconds_per_window(trainer, int(work / 6))
    step = options.gradient_accumulation_steps * options.batch_size * window
    sampling = 0.0
    if recipe.distill.teachers:
        tokens = min(TIMED_TOKENS, max(FEW_TOKENS, int(work / 2)))
        sampling = seconds_to_sample(trainer, tokens)
    return Costs(
        step=step + _seconds_of_optimizers(trainer),
        validation=options.validation_windows * window / 3,
        record=0.0,
        sampling=sampling,
    )


def _seconds_per_window(trainer: Trainer, tokens: int) -> float:
    """Forward and backward of one window, timed on about ``tokens`` tokens of a micro-batch."""
    windows = trainer.batches.token_ids(0)[0]
    context = windows.shape[1] - 1
    if tokens < context:
        windows = windows[:1, : max(FEW_TOKENS, tokens) + 1]
    windows = windows[: max(1, tokens // context)]
    trainer.model.train()
    times = []
    for _ in range(1 + REPEAT):  # the first one warms up
        began = time.perf_counter()
        trainer.loss(windows).backward()
        _wait_for_gpu(trainer.recipe.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) * context / windows[:, 1:].numel()


def _seconds_of_optimizers(trainer: Trainer) -> float:
    """A step of the optimizers: one block times the number of blocks, and the rest."""
    blocks: dict[str, list[torch.Tensor]] = {}
    for name, parameter in trainer.model.named_parameters():
        inside = name.partition(".layers.")[2]
        blocks.setdefault(inside.partition(".")[0], []).append(parameter)
    gradients = {parameter: parameter.grad for parameter in trainer.parameters}
    rest, block = blocks.pop(""), next(iter(blocks.values()))
    seconds = 0.0
    for group, count in ((rest, 1), (block, len(blocks))):
        for parameter in trainer.parameters:
            parameter.grad = None
        for parameter in group:
            parameter.grad = gradients[parameter]
        for _ in range(2):  # the first one makes the state
            began = time.perf_counter()
            for optimizer in trainer.optimizers:
                optimizer.step()
            _wait_for_gpu(trainer.recipe.device)
            taken = time.perf_counter() - began
        seconds += count * taken
    return seconds


def _wait_for_gpu(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def quick_estimate(recipe: Recipe) -> float:
    """Seconds of training ``recipe.train.steps`` here, from one forward and backward pass.

    No text is read: windows are random, and the vocabulary has the size that the recipe names.
    """
    context = recipe.model.context
    model = model_of(recipe, vocab_size=recipe.tokenizer.vocab_size, **NO_TOKENS)
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.train.precision, device)
    model.to(device).train().set_attn_implementation(attention_for(device, context))
    loss = make_loss(model, device, bf16=precision == "bf16")
    windows = torch.randint(
        recipe.tokenizer.vocab_size, (recipe.train.batch_size, context + 1), device=device
    )
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        loss(windows).backward()
        _wait_for_gpu(device)
        seconds = time.monotonic() - began
    steps = recipe.train.steps + recipe.distill.teachers * recipe.distill.steps
    return seconds * recipe.train.gradient_accumulation_steps * steps


def peak_memory(device: str) -> int:
    """Peak memory in bytes of the GPU, or else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
