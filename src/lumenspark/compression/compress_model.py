"""From a model's name to a folder with a smaller one: what `lumenspark compress` does."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lumenspark.compression.activations import Activations
from lumenspark.compression.svd import (
    Compression,
    check_choice,
    check_model,
    compress,
    linear_layers,
    observe,
)
from lumenspark.data.corpora import Corpus
from lumenspark.data.tokens import prepare
from lumenspark.data.windows import TrainingWindows
from lumenspark.device import choose_device, choose_precision
from lumenspark.errors import UserError, first_line, quoted
from lumenspark.evaluation.model_checks import check_causal_briefly, default_context
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import Evaluation
from lumenspark.evaluation.scoring import Progress
from lumenspark.files import new_folder
from lumenspark.hub import split_revision
from lumenspark.loading import load, locate
from lumenspark.models.module_ranks import shape_of
from lumenspark.quiet import quiet
from lumenspark.recipe import OptimOptions, parse_duration
from lumenspark.reporter import Reporter
from lumenspark.training.losses import make_loss
from lumenspark.training.lr_schedule import lr_factor, set_lr
from lumenspark.training.optimizers import build_optimizers

WHITEN_TOKENS = 32_768  # a Lumiére-1M whitened by 4,096 or 65,536 has a perplexity within 3%
HEAL_TOKENS = 4096  # of one step
HEAL_RATE = 1e-3
TIMED_STEPS = 3
COMPARED = 16  # tokens, before and after saving
ROUNDING = 1e-3  # of the largest logit; the weights are the same, their places in memory are not

ProgressBar = Callable[[], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class Text:
    """What a compression reads, and what for.

    Attributes:
        split: is scored before and after.
        whiten_tokens: so many of the train split whiten the decomposition; 0: a plain one.
        heal_for: a time such as ``2m``, for which the compressed model is trained on the train
            split; None: not at all.
        heal_rate: AdamW's highest rate in it.
    """

    corpus: Corpus
    split: str = "test"
    whiten_tokens: int = WHITEN_TOKENS
    heal_for: str | None = None
    heal_rate: float = HEAL_RATE


@dataclass(frozen=True)
class Compressed:
    """What became of a model. ``scores`` are called before, compressed, healed; none without text.

    ``healing_steps`` is None where it was not healed.
    """

    compression: Compression
    scores: dict[str, Evaluation]
    healing_steps: int | None


def compress_model(
    name: str,
    out: Path,
    *,
    rank: int | None = None,
    keep: float | None = None,
    params: float | None = None,
    text: Text | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    full_check: bool = False,
    reporter: Reporter | None = None,
    progress_bar: ProgressBar = nullcontext,
) -> Compressed:
    """Write a compressed copy of the model called ``name`` to the new folder ``out``.

    ``rank``, ``keep`` and ``params`` are those of :func:`.models.compress.compress`, ``revision``
    and ``full_check`` of :func:`lumenspark.load`. Each scoring happens inside a ``progress_bar()``.
    What was written is loaded again and run: it gives the logits that the model gives here.

    Raises UserError for what cannot work; there is no ``out`` then.
    """
    reporter = reporter or Reporter()
    seconds = _check(rank, keep, params, text)
    device = choose_device(device)
    with new_folder(out) as folder:
        source, commit = locate(name, checkpoint, revision, code=trust_remote_code)
        model, tokenizer = load(
            str(source), device=device, trust_remote_code=trust_remote_code, full_check=full_check
        )
        model.hub_revision = commit
        try:
            check_model(model)
        except ValueError as error:
            raise UserError(f"{name} cannot be compressed: {error}") from error
        check_causal_briefly(model)
        score = partial(_score, model, tokenizer, text, progress_bar)
        scores = {"before": score()}
        windows, activations, steps = None, None, None
        if text is not None and (text.whiten_tokens or seconds):
            windows = train_windows(text.corpus, source, model, reporter)
            if text.whiten_tokens:
                activations = observe_text(model, windows, text.whiten_tokens)
        try:
            compression = compress(
                model, rank=rank, keep=keep, params=params, activations=activations
            )
        except ValueError as error:
            raise UserError(f"{name} cannot be compressed: {error}") from error
        _some_logits(name, model)  # before anything is scored, to see whether it runs at all
        scores["compressed"] = score()
        if text is not None and windows is not None and seconds:
            steps = heal(model, windows, seconds, text.heal_rate, reporter)
            scores["healed"] = score()
        if commit is not None:
            hub_id, _ = split_revision(name)
            model.config.compressed_from = {"model": hub_id, "revision": commit}
        ids, expected = _some_logits(name, model)
        try:
            with quiet():
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        except Exception as error:  # files are written by Python, Rust and transformers in turn
            raise UserError(
                f"{out} could not be written ({first_line(error)}): make room on that disk, or "
                "correct what lies beside the model's weights"
            ) from error
        _check_saved(folder, name, device, ids, expected)
    known = {stage: figures for stage, figures in scores.items() if figures is not None}
    return Compressed(compression, known, steps)


def train_windows(corpus: Corpus, source: Path, model: Any, reporter: Reporter) -> TrainingWindows:
    """Shuffled windows of the train split, in the tokens of the model in the folder ``source``."""
    tokens = prepare(corpus, tokenizer_name=str(source), report=reporter.say)
    return TrainingWindows(tokens.splits["train"].ids, default_context(model), seed=0)


def observe_text(
    model: Any, windows: TrainingWindows, whiten_tokens: int
) -> dict[str, Activations]:
    """What about so many tokens show about the linear layers; all of the text, if it has fewer.

    Raises UserError where that is less than the widest layer has inputs.
    """
    count = min(math.ceil(whiten_tokens / windows.context), windows.windows_per_epoch)
    tokens = count * windows.context
    widest = max((shape_of(layer)[0] for layer in linear_layers(model).values()), default=0)
    if tokens < widest:
        raise UserError(
            f"{tokens:,} tokens are too few to whiten a layer with {widest:,} inputs: take at "
            "least as many, or 0 for plain SVD"
        )
    return observe(model, torch.from_numpy(windows.batch(0, count)))


def heal(
    model: Any, windows: TrainingWindows, seconds: float, rate: float, reporter: Reporter
) -> int:
    """Train for about ``seconds`` by AdamW, whose rate falls from ``rate`` to zero.

    The time becomes a number of steps once, at the start, by measuring some; returned is that
    number. Weights of a shorter type are float32 while they are trained. Raises UserError where a
    step is not finite.
    """
    device = model.device.type
    dtypes = {parameter: parameter.dtype for parameter in model.parameters()}
    options = OptimOptions(name="adamw", adamw_lr=rate)
    rows = max(1, HEAL_TOKENS // windows.context)
    for parameter in dtypes:  # not the buffers, such as tables of positions
        parameter.data = parameter.data.float()
    model.train()
    loss_of = make_loss(model, device, bf16=choose_precision("auto", device) == "bf16")

    def step(number: int) -> float:
        torch.manual_seed(number)
        model.zero_grad()
        loss = loss_of(torch.from_numpy(windows.batch(number * rows, rows)).to(device))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        if not math.isfinite(loss.item() + norm.item()):
            raise UserError(f"healing was not finite at step {number}: try a lower rate")
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    optimizers = build_optimizers(model, options)
    set_lr(optimizers, options, 0.0)  # measuring changes no weight
    steps = max(1, int(seconds / median(_seconds_of(step, n) for n in range(TIMED_STEPS))))
    optimizers = build_optimizers(model, options)
    began = time.monotonic()
    with reporter:
        reporter.start(0, steps)
        for number in range(steps):
            set_lr(optimizers, options, lr_factor(number, steps, options))
            loss, taken = step(number), time.monotonic() - began
            speed = (number + 1) * rows * windows.context / taken
            metrics = {"loss": loss, "tokens_per_second": speed, "seconds": taken}
            reporter.step(number + 1, steps, metrics)
    model.zero_grad()
    for parameter, dtype in dtypes.items():
        parameter.data = parameter.data.to(dtype)
    model.eval()
    return steps


def _check(
    rank: int | None, keep: float | None, params: float | None, text: Text | None
) -> float | None:
    """The seconds of healing, None for none. Raises UserError for what cannot be asked."""
    try:
        check_choice(rank, keep, params)
    except ValueError as error:
        raise UserError(str(error)) from error
    if text is None:
        return None
    if text.whiten_tokens < 0:
        raise UserError(f"whiten_tokens is {text.whiten_tokens}: it must be 0 or more")
    if not 0 < text.heal_rate < math.inf:
        raise UserError(f"heal_rate is {text.heal_rate}: it must be over 0 and finite")
    seconds = None if text.heal_for is None else parse_duration(text.heal_for, "heal")
    if seconds == math.inf:
        raise UserError(f"heal is {quoted(text.heal_for)}: give a time such as 90s, 5m or 1h")
    return seconds


@torch.no_grad()
def _some_logits(name: str, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, T) ids, as many as fit into the context and are worth comparing, and their logits.

    Raises UserError where the model does not run.
    """
    count = min(default_context(model), COMPARED)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, count), generator=generator).to(model.device)
    try:
        return ids, model(input_ids=ids).logits
    except Exception as error:  # whatever an architecture does with layers of another class
        raise UserError(
            f"{name} cannot be compressed: a {type(model).__name__} does not run with low-rank "
            f"layers ({first_line(error)}), so choose a model of another architecture"
        ) from error


@torch.no_grad()
def _check_saved(
    folder: Path, name: str, device: str, ids: torch.Tensor, expected: torch.Tensor
) -> None:
    """Raises UserError unless the folder loads as any other, gives these logits, and generates."""
    try:
        saved, _ = load(str(folder), device=device)
        logits = saved(input_ids=ids).logits
        saved.generate(ids[:, :2], max_new_tokens=2, do_sample=False)
    except Exception as error:
        raise UserError(
            f"{name} cannot be compressed: what was saved does not load and run again "
            f"({first_line(error.__cause__ or error)}), so choose a model of another architecture"
        ) from error
    scale = max(1.0, float(expected.abs().max()))
    if not torch.allclose(logits, expected, rtol=0, atol=ROUNDING * scale):
        raise UserError(
            f"{name} cannot be compressed: what was saved gives other logits when it is loaded "
            "again, so choose a model of another architecture"
        )


def _score(
    model: Any, tokenizer: Any, text: Text | None, progress_bar: ProgressBar
) -> Evaluation | None:
    """None without a text."""
    if text is None:
        return None
    with progress_bar() as progress:
        return evaluate(model, tokenizer, text.corpus, split=text.split, progress=progress)


def _seconds_of(step: Callable[[int], float], number: int) -> float:
    began = time.perf_counter()
    step(number)
    return time.perf_counter() - began
