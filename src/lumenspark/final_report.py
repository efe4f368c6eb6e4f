"""After training: evaluation of the best checkpoint, curves, card, page and a sample."""

import shlex
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import in_one_line, store
from lumenspark.evaluation.weights import Weights, load_to_score
from lumenspark.files import write_file
from lumenspark.inspect.pages.build import heads_content
from lumenspark.inspect.pages.render import render_heads_page
from lumenspark.inspect.recording import recorded_series
from lumenspark.model_card.card import write_card
from lumenspark.recipe import recipe_names
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run
from lumenspark.runs.samples import Sample, write_samples
from lumenspark.training.plots import draw_curves
from lumenspark.training.sample import TEMPERATURE, sample_text
from lumenspark.training.setup import Setup

SAMPLE_TOKENS = 200
SAMPLES = 3
INSPECTED_WORDS = 30


def finish(run: Run, setup: Setup, reporter: Reporter) -> None:
    """Evaluate ``best``, draw the curves, write the card and the page, print a sample."""
    draw_curves(run)
    model, tokenizer, weights = _evaluate_best(run, setup, reporter)
    samples = _write_samples(run, setup, model, tokenizer, weights)
    write_card(run.path)
    page = _write_page(run, model)
    reporter.say(f"\n{samples[0].text}\n")
    for name, path in (
        ("loss curves", run.path / "loss.svg"),
        ("model card", run.path / "README.md"),
        ("heads, during training and now", page),
    ):
        if path is not None:
            reporter.say(f"{name + ':':<32}{path}")
    reporter.say("\nNext:")
    for command in next_commands(run, samples[0], tokenizer):
        reporter.say(f"  {command}")


def next_commands(run: Run, sample: Sample, tokenizer: Any) -> list[str]:
    """Three commands to go on with: write, look inside, train on other text."""
    recipe = run.recipe()
    preset = recipe.name if recipe.name in recipe_names() else "lumiere-1m"
    sentence = _beginning(sample, tokenizer, recipe.model.context)
    return [
        f"lumenspark generate {run.id} {shlex.quote(sample.prompt)}",
        f"lumenspark inspect {run.id} {shlex.quote(sentence)} -o page.html",
        f"lumenspark train {preset} --data your-folder --budget 20m",
    ]


def _beginning(sample: Sample, tokenizer: Any, context: int) -> str:
    """The first words of a sample, at most :data:`INSPECTED_WORDS`, that fit into the context."""
    words = sample.text.split()[:INSPECTED_WORDS]
    while words and len(tokenizer(" ".join(words))["input_ids"]) > context:
        words.pop()
    wrote = sample.text.startswith(sample.prompt)  # or the reason why there is no text
    return " ".join(words) if words and wrote else "A sentence of yours"


def _write_samples(
    run: Run, setup: Setup, model: Any, tokenizer: Any, weights: Weights
) -> list[Sample]:
    """Write samples.json: continuations of the prompt by ``best``, from several seeds."""
    recipe = setup.recipe
    prompt = recipe.train.prompt or ""
    samples = [
        Sample(
            prompt=prompt,
            text=sample_text(model, tokenizer, prompt, seed, SAMPLE_TOKENS),
            temperature=TEMPERATURE,
            seed=seed,
        )
        for seed in range(recipe.seed, recipe.seed + SAMPLES)
    ]
    write_samples(run.path, weights.digest, samples)
    return samples


def _evaluate_best(run: Run, setup: Setup, reporter: Reporter) -> tuple[Any, Any, Weights]:
    """Score ``best`` by both protocols into evaluation.json.

    Returns its model, its tokenizer and the identity of its weights.
    """
    best = str(run.checkpoint("best"))
    model, tokenizer, weights = load_to_score(best, device=setup.recipe.device)
    split = "test" if "test" in setup.tokens.splits else "validation"
    context = run.recipe().model.context
    for protocol in ("card", "strided"):
        try:
            with reporter.working(f"scoring the {split} split, protocol {protocol}"):
                figures = evaluate(
                    model, tokenizer, setup.corpus, split=split, protocol=protocol, context=context
                )
        except UserError as error:  # such as a tokenizer that loses text
            reporter.say(f"no figures by the protocol {protocol}: {error}")
            continue
        settings = f"--split {split} --protocol {protocol} --context {context}"
        store(
            run.path,
            figures,
            checkpoint="best",
            step=weights.step,
            weights=weights.digest,
            command=f"lumenspark evaluate {run.id} {settings}",
        )
        reporter.say(in_one_line(figures))
    return model, tokenizer, weights


def _write_page(run: Run, model: Any) -> Path | None:
    """Write inspect.html where training recorded internals."""
    series = recorded_series(run.metrics())
    if not series:
        return None
    title = f"run {run.id} ({run.recipe().name}), checkpoint best"
    page = run.path / "inspect.html"
    write_file(page, render_heads_page(heads_content(model, title, series)))
    return page
