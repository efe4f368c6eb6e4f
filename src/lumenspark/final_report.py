"""The end of a training: evaluation of the best checkpoint, curves, card, page and a sample."""

from typing import Any

from lumenspark.errors import UserError
from lumenspark.evaluation.perplexity import evaluate
from lumenspark.evaluation.results import describe, store
from lumenspark.evaluation.weights import load_to_score
from lumenspark.files import write_file
from lumenspark.inspect.pages.build import heads_content
from lumenspark.inspect.pages.render import render_heads_page
from lumenspark.inspect.recording import recorded_series
from lumenspark.model_card.card import write_card
from lumenspark.recipe import recipe_names
from lumenspark.reporter import Reporter
from lumenspark.runs.run import Run
from lumenspark.training.plots import draw_curves
from lumenspark.training.sample import sample_text
from lumenspark.training.setup import Setup

SAMPLE_TOKENS = 64


def finish(run: Run, setup: Setup, reporter: Reporter) -> None:
    """Evaluate ``best``, draw the curves, write the card and the page, print a sample."""
    draw_curves(run)
    model, tokenizer = _evaluate_best(run, setup, reporter)
    write_card(run.path)
    inside = _write_page(run, model)
    recipe = run.recipe()
    text = sample_text(model, tokenizer, recipe.train.prompt, recipe.seed, SAMPLE_TOKENS)
    reporter.say(f"\nA sample:\n{text}\n")
    preset = recipe.name if recipe.name in recipe_names() else "lumiere-1m"
    reporter.say(
        "Next:\n"
        f'  lumenspark generate {run.id} "{recipe.train.prompt}"\n'
        f'  lumenspark inspect {run.id} "A sentence of yours" -o page.html\n'
        f"  lumenspark evaluate {run.id}\n"
        f"  lumenspark train {preset} --data your-folder --budget 20m\n"
        f"The card is {run.path / 'README.md'}, the curves {run.path / 'loss.svg'}{inside}."
    )


def _evaluate_best(run: Run, setup: Setup, reporter: Reporter) -> tuple[Any, Any]:
    """Score ``best`` by both protocols into evaluation.json. Returns its model and tokenizer."""
    best = str(run.checkpoint("best"))
    model, tokenizer, weights = load_to_score(best, device=setup.recipe.device)
    split = "test" if "test" in setup.tokens.splits else "validation"
    context = run.recipe().model.context
    for protocol in ("card", "strided"):
        try:
            figures = evaluate(
                model, tokenizer, setup.corpus, split=split, protocol=protocol, context=context
            )
        except UserError as error:  # such as a tokenizer that loses the text
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
        reporter.say(describe(figures))
    return model, tokenizer


def _write_page(run: Run, model: Any) -> str:
    """Write inspect.html where training recorded internals. Returns the words that point to it."""
    series = recorded_series(run.metrics())
    if not series:
        return ""
    title = f"run {run.id} ({run.recipe().name}), checkpoint best"
    write_file(run.path / "inspect.html", render_heads_page(heads_content(model, title, series)))
    return f", its inside over training {run.path / 'inspect.html'}"
