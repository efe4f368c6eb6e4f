"""Compress a model by name and save the result: the work of `lumenspark compress`."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lumenspark.compression.activations import Activations
from lumenspark.compression.finetune import LEARNING_RATE, finetune
from lumenspark.compression.svd import (
    Compression,
    check_model,
    check_target,
    collect_activations,
    compress,
    linear_layers,
)
from lumenspark.data.corpora import Corpus
from lumenspark.data.tokens import prepare
from lumenspark.data.windows import TrainingWindows
from lumenspark.device import choose_device
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
from lumenspark.recipe import parse_duration
from lumenspark.reporter import Reporter

# Perplexity of a Lumiére-1M changes by less than 3% from 4,096 to 65,536 tokens.
CALIBRATION_TOKENS = 32_768
PROBE_TOKENS = 16  # whose logits are compared before and after saving
TOO_MUCH = 2.0  # times the perplexity of the original
TOLERANCE = 1e-3  # relative to the largest logit: kernels may differ with memory alignment

ProgressBar = Callable[[], AbstractContextManager[Progress | None]]


@dataclass(frozen=True)
class TextSettings:
    """The text of a compression, and its uses.

    Attributes:
        split: the split to score before and after.
        headings: ``drop`` or ``keep``, for calibration and fine-tuning on WikiText.
        calibration_tokens: tokens of the train split that whiten the SVD; 0: plain SVD.
        finetune_time: fine-tune on the train split for a time such as ``2m``; None: no fine-tuning.
        finetune_lr: peak learning rate of fine-tuning.
    """

    corpus: Corpus
    split: str = "test"
    headings: str = "drop"
    calibration_tokens: int = CALIBRATION_TOKENS
    finetune_time: str | None = None
    finetune_lr: float = LEARNING_RATE


@dataclass(frozen=True)
class CompressionResult:
    """Layers and scores of a compressed model.

    Attributes:
        scores: by stage: original, compressed, finetuned. Empty without a text.
        finetune_steps: None without fine-tuning.
    """

    compression: Compression
    scores: dict[str, Evaluation]
    finetune_steps: int | None


def compress_model(
    name: str,
    out: Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    params: float | None = None,
    text: TextSettings | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    full_check: bool = False,
    force: bool = False,
    reporter: Reporter | None = None,
    progress_bar: ProgressBar = nullcontext,
) -> CompressionResult:
    """Write a compressed copy of the model ``name`` to the new folder ``out``.

    ``rank``, ``energy`` and ``params`` as in :func:`.svd.compress`; ``revision`` and ``full_check``
    as in :func:`lumenspark.load`. Each scoring pass runs inside a ``progress_bar()``. The saved
    model is loaded again, and must give the same logits and generate.

    Raises UserError where the model cannot be compressed, and unless ``force`` where its perplexity
    is more than :data:`TOO_MUCH` times that of the original; ``out`` is not created then.
    """
    reporter = reporter or Reporter()
    seconds = _check(rank, energy, params, text)
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
        scores = {"original": score()}
        windows, activations, steps = None, None, None
        if text is not None and (text.calibration_tokens or seconds):
            windows = train_windows(text.corpus, source, model, reporter, text.headings)
            if text.calibration_tokens:
                activations = calibrate(model, windows, text.calibration_tokens)
        try:
            compression = compress(
                model, rank=rank, energy=energy, params=params, activations=activations
            )
        except ValueError as error:
            raise UserError(f"{name} cannot be compressed: {error}") from error
        _probe_logits(name, model)  # fails before scoring if the model does not run
        scores["compressed"] = score()
        if text is not None and windows is not None and seconds:
            steps = finetune(model, windows, seconds, text.finetune_lr, reporter)
            scores["finetuned"] = score()
        if harm := _harm(list(scores.values())):
            if not force:
                raise UserError(
                    f"{harm}: nothing was written; keep more of the parameters, fine-tune, or "
                    "write it all the same with --force"
                )
            reporter.say(f"warning: {harm}")
        if commit is not None:
            hub_id, _ = split_revision(name)
            model.config.compressed_from = {"model": hub_id, "revision": commit}
        ids, expected = _probe_logits(name, model)
        try:
            with quiet():
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        except Exception as error:  # from Python, Rust or transformers
            raise UserError(
                f"{out} could not be written ({first_line(error)}): free some disk space, or "
                "correct the files beside the model's weights"
            ) from error
        _check_saved(folder, name, device, ids, expected)
    known = {stage: figures for stage, figures in scores.items() if figures is not None}
    return CompressionResult(compression, known, steps)


def train_windows(
    corpus: Corpus, source: Path, model: Any, reporter: Reporter, headings: str = "drop"
) -> TrainingWindows:
    """Shuffled windows of the train split, tokenized by the tokenizer in the folder ``source``."""
    tokens = prepare(corpus, tokenizer_name=str(source), headings=headings, report=reporter.say)
    return TrainingWindows(tokens.splits["train"].ids, default_context(model), seed=0)


def calibrate(
    model: Any, windows: TrainingWindows, calibration_tokens: int
) -> dict[str, Activations]:
    """Activations of the linear layers on about ``calibration_tokens`` tokens of the text.

    Raises UserError for fewer tokens than the widest layer has inputs.
    """
    count = min(math.ceil(calibration_tokens / windows.context), windows.windows_per_epoch)
    tokens = count * windows.context
    widest = max((shape_of(layer)[0] for layer in linear_layers(model).values()), default=0)
    if tokens < widest:
        raise UserError(
            f"{tokens:,} calibration tokens are too few for a layer with {widest:,} inputs: use at "
            f"least {widest:,}, or 0 for plain SVD"
        )
    return collect_activations(model, torch.from_numpy(windows.batch(0, count)))


def _check(
    rank: int | None, energy: float | None, params: float | None, text: TextSettings | None
) -> float | None:
    """Seconds of fine-tuning, None for none. Raises UserError for values out of range."""
    try:
        check_target(rank, energy, params)
    except ValueError as error:
        raise UserError(str(error)) from error
    if text is None:
        return None
    if text.calibration_tokens < 0:
        raise UserError(f"calibration_tokens is {text.calibration_tokens}: it must be 0 or more")
    if not 0 < text.finetune_lr < math.inf:
        raise UserError(f"finetune_lr is {text.finetune_lr}: it must be positive and finite")
    seconds = None if text.finetune_time is None else parse_duration(text.finetune_time, "finetune")
    if seconds == math.inf:
        raise UserError(
            f"finetune is {quoted(text.finetune_time)}: give a time such as 90s, 5m or 1h"
        )
    return seconds


@torch.no_grad()
def _probe_logits(name: str, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (1, T), up to 16 as the context allows, and their logits (1, T, V).

    Raises UserError if the forward pass fails.
    """
    count = min(default_context(model), PROBE_TOKENS)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, count), generator=generator).to(model.device)
    try:
        return ids, model(input_ids=ids).logits
    except Exception as error:  # depends on the architecture
        raise UserError(
            f"{name} cannot be compressed: a {type(model).__name__} does not run with low-rank "
            f"layers ({first_line(error)}); choose a model of another architecture"
        ) from error


@torch.no_grad()
def _check_saved(
    folder: Path, name: str, device: str, ids: torch.Tensor, expected: torch.Tensor
) -> None:
    """Raise UserError unless the saved model loads, gives the same logits and generates."""
    try:
        saved, _ = load(str(folder), device=device)
        logits = saved(input_ids=ids).logits
        saved.generate(ids[:, :2], max_new_tokens=2, do_sample=False)
    except Exception as error:
        raise UserError(
            f"{name} cannot be compressed: the saved model does not load and run "
            f"({first_line(error.__cause__ or error)}); choose a model of another architecture"
        ) from error
    scale = max(1.0, float(expected.abs().max()))
    if not torch.allclose(logits, expected, rtol=0, atol=TOLERANCE * scale):
        raise UserError(
            f"{name} cannot be compressed: the saved model gives different logits; choose a "
            "model of another architecture"
        )


def _harm(scores: list[Evaluation | None]) -> str:
    """How far perplexity rises from the first score to the last; empty where that is no problem."""
    before, after = scores[0], scores[-1]
    if before is None or after is None or after.loss - before.loss <= math.log(TOO_MUCH):
        return ""
    times = math.exp(min(after.loss - before.loss, 700.0))
    return (
        f"perplexity rises from {before.perplexity:.4g} to {after.perplexity:.4g}, {times:.3g} "
        f"times as high, on the {after.split} split of {after.data}"
    )


def _score(
    model: Any, tokenizer: Any, text: TextSettings | None, progress_bar: ProgressBar
) -> Evaluation | None:
    """Evaluation on the split to score; None without a text."""
    if text is None:
        return None
    with progress_bar() as progress:
        return evaluate(model, tokenizer, text.corpus, split=text.split, progress=progress)
