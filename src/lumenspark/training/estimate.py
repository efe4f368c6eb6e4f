"""Estimates of the time and memory of a training here, from a few steps that are undone."""

import sys
import time
from dataclasses import dataclass

import torch

from lumenspark.device import attention_for, choose_device, choose_precision
from lumenspark.recipe import Recipe
from lumenspark.reporter import Reporter
from lumenspark.training.budget import fit_budget
from lumenspark.training.losses import make_loss
from lumenspark.training.model_factory import NO_TOKENS, model_of
from lumenspark.training.setup import set_up
from lumenspark.training.timing import seconds_per_step, seconds_per_validation
from lumenspark.training.trainer import Trainer


@dataclass(frozen=True)
class Estimate:
    """Cost of a recipe here, teachers included. Times in seconds, memory in bytes."""

    parameters: int
    train_tokens: int
    vocab_size: int
    steps: int
    tokens_seen: int
    seconds_per_step: float
    seconds: float
    memory: int


def estimate(recipe: Recipe, reporter: Reporter | None = None) -> Estimate:
    """Measure a few steps of ``recipe`` here, and undo them; no run is made."""
    started = time.monotonic()
    reporter = reporter or Reporter()
    setup = fit_budget(set_up(recipe, reporter), started, reporter)
    trainer = Trainer(setup, reporter)
    step, validation = seconds_per_step(trainer, warmup=1, timed=3), seconds_per_validation(trainer)
    options, distill = trainer.recipe.train, trainer.recipe.distill
    steps = options.steps + distill.teachers * distill.steps
    return Estimate(
        parameters=sum(parameter.numel() for parameter in setup.model.parameters()),
        train_tokens=len(setup.tokens.splits["train"].ids),
        vocab_size=setup.tokens.vocab_size,
        steps=steps,
        tokens_seen=steps * trainer.recipe.tokens_per_step,
        seconds_per_step=step,
        seconds=steps * (step + validation / options.validate_every),
        memory=peak_memory(trainer.recipe.device),
    )


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
        if device == "cuda":
            torch.cuda.synchronize()
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
