"""The commands as functions, with the arguments of the command line: ``lumenspark.evaluate``.

A model is a folder, a run id or a unique prefix of one, ``latest`` or a hub id, as in
:func:`lumenspark.load`, or a pair ``(model, tokenizer)``.
"""

from pathlib import Path
from typing import Any

from lumenspark.compression.compress_model import (
    CompressionResult,
    TextSettings,
    compress_model,
)
from lumenspark.data.corpora import Corpus
from lumenspark.data.tokens import PreparedTokens
from lumenspark.device import choose_device
from lumenspark.errors import UserError
from lumenspark.evaluation import perplexity
from lumenspark.evaluation.model_checks import check_causal_briefly
from lumenspark.evaluation.results import Evaluation, store
from lumenspark.evaluation.scoring import Progress
from lumenspark.evaluation.weights import Weights, load_to_score
from lumenspark.generation.text import Sampling, check_count, continuations
from lumenspark.loading import check_generation, load
from lumenspark.model_card.card import update_card, write_card
from lumenspark.recipe import Recipe, load_recipe, with_overrides
from lumenspark.reporter import Reporter
from lumenspark.resolve import open_recipe_corpus, prepare_recipe_tokens, with_full_names
from lumenspark.runs.run import Run, get_run, run_named, runs_folder
from lumenspark.upload import push as upload

Model = str | tuple[Any, Any]


def evaluate(
    model: Model,
    data: str | Corpus | None = None,
    *,
    split: str = "test",
    protocol: str = "strided",
    context: int | None = None,
    stride: int | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    revision: str | None = None,
    full_check: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Perplexity and bits per byte of a model, as ``lumenspark evaluate``.

    ``data`` is what ``--data`` names; default: the data of the run. ``protocol`` is ``strided``,
    ``card`` or ``lm_eval``; it, ``context`` and ``stride`` (tokens) are those of
    :func:`lumenspark.evaluation.perplexity.evaluate`. The results of a named model are stored as
    the command stores them; those of a pair ``(model, tokenizer)`` are only returned.

    Raises UserError for a model or a text that cannot be found, read or scored.
    """
    name = model if isinstance(model, str) else None
    run = None if name is None else run_named(name)  # before scoring, since latest may change
    corpus = _text_of(run, data)
    weights = None
    if name is None:
        network, tokenizer = _pair(model)
    else:
        network, tokenizer, weights = load_to_score(
            name,
            checkpoint,
            device=choose_device(device),
            trust_remote_code=trust_remote_code,
            revision=revision,
            full_check=full_check,
        )
    figures = perplexity.evaluate(
        network,
        tokenizer,
        corpus,
        split=split,
        protocol=protocol,
        context=context,
        stride=stride,
        progress=progress,
    )
    if name is not None and weights is not None:
        given = {
            "data": data.name if isinstance(data, Corpus) else data,
            "split": split,
            "protocol": protocol,
            "context": context,
            "stride": stride,
            "checkpoint": checkpoint,
        }
        stated = [f"{key}={value!r}" for key, value in given.items() if value is not None]
        command = f"lumenspark.evaluate({', '.join([repr(name), *stated])})"
        keep(figures, name, run, checkpoint, weights, command)
    return figures


def keep(
    figures: Evaluation,
    model: str,
    run: Run | None,
    checkpoint: str,
    weights: Weights,
    command: str,
) -> None:
    """Store the evaluation of a named model: in its run, its folder, or for a hub model in
    ``runs/evaluations``. The card of a run that describes the checkpoint is written again.
    """
    if run is not None:
        folder, scored = run.path, checkpoint
    elif Path(model).is_dir():
        folder, scored = Path(model), model
    else:  # a hub model
        folder, scored = runs_folder() / "evaluations" / model.replace("/", "--"), model
        folder.mkdir(parents=True, exist_ok=True)
    store(
        folder,
        figures,
        checkpoint=scored,
        step=weights.step,
        weights=weights.digest,
        command=command,
    )
    if run is not None:
        update_card(run.path, checkpoint)


def generate(
    model: Model,
    prompt: str | list[str],
    *,
    max_new_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    n: int | None = None,
    seed: int | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    revision: str | None = None,
    full_check: bool = False,
    trust_remote_code: bool = False,
) -> str | list[str]:
    """Prompt and continuation, the text that ``lumenspark generate`` prints.

    A list for a list of prompts or for ``n`` texts per prompt, grouped by prompt; the n-th text of
    a prompt uses ``seed + n - 1``. ``temperature=0`` is greedy decoding, ``top_k=0`` samples from
    all tokens. Past the context length, the newest half of the context is kept.

    Raises UserError for a model that cannot be loaded, and for invalid settings and prompts.
    """
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed)
    check_count(1 if n is None else n)
    if isinstance(model, str):
        network, tokenizer = load(
            model, checkpoint, choose_device(device), trust_remote_code, revision, full_check
        )
        check_causal_briefly(network)
        check_generation(network, tokenizer)
    else:
        network, tokenizer = _pair(model)
    texts = [
        text
        for each in ([prompt] if isinstance(prompt, str) else prompt)
        for text in continuations(network, tokenizer, each, sampling, 1 if n is None else n)
    ]
    return texts[0] if isinstance(prompt, str) and n is None else texts


def compress(
    model: str,
    out: str | Path,
    *,
    data: str | Corpus | None = None,
    split: str = "test",
    calibration_tokens: int | None = None,
    finetune: str | None = None,
    finetune_lr: float | None = None,
    device: str = "auto",
    **settings: Any,
) -> CompressionResult:
    """Write a copy of a model with low-rank linear layers to the folder ``out``, as
    ``lumenspark compress``.

    ``settings``: the target (``rank``, …) and all other arguments of
    :func:`lumenspark.compression.compress_model.compress_model`. ``data`` names the text that
    whitens the SVD and is scored; default: the data of the run; without either, the SVD is plain.
    ``finetune`` is a time such as ``"2m"``.

    Raises UserError where the model cannot be compressed; ``out`` is not created then.
    """
    wanted = {
        "calibration_tokens": calibration_tokens,
        "finetune_time": finetune,
        "finetune_lr": finetune_lr,
    }
    given: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    run = run_named(model)
    text = None
    if run is not None or data is not None or given or split != "test":
        headings = run.recipe().corpus.headings if run is not None and data is None else "drop"
        text = TextSettings(_text_of(run, data), split=split, headings=headings, **given)
    return compress_model(model, Path(out), text=text, device=choose_device(device), **settings)


def prepare(
    recipe: str | Recipe = "lumiere-1m", *, reporter: Reporter | None = None, **overrides: Any
) -> PreparedTokens:
    """The token ids of a recipe's text, in the token cache that :func:`lumenspark.train` reads.

    ``recipe`` and ``overrides`` as in :func:`lumenspark.train`. Every byte of a cached entry is
    verified. Raises UserError for a text that cannot be read or is too short.
    """
    loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
    wanted = with_full_names(with_overrides(loaded, overrides))
    say = (reporter or Reporter()).say
    return prepare_recipe_tokens(
        wanted, open_recipe_corpus(wanted, say), say, check_every_byte=True
    )


def card(run: str, checkpoint: str = "best") -> Path:
    """Write the model card of a run, its ``README.md``, and return its path.

    Raises UserError for an unknown run or checkpoint, and for missing or damaged files.
    """
    return write_card(get_run(run).path, checkpoint)


def push(run: str, repository: str, checkpoint: str = "best", *, private: bool = False) -> str:
    """Upload a run to the model repository ``user/name`` of the hub, and return its URL.

    Raises UserError as :func:`lumenspark.upload.push`.
    """
    return upload(get_run(run).path, repository, checkpoint, private=private)


def _text_of(run: Run | None, data: str | Corpus | None) -> Corpus:
    """The corpus of ``data``; without it, the one that ``run`` was trained on."""
    if isinstance(data, Corpus):
        return data
    if data is not None:
        return open_recipe_corpus(Recipe(data=data), Reporter().say)
    if run is None:
        raise UserError("the model is not a run, so it names no text: give data")
    return open_recipe_corpus(run.recipe(), Reporter().say)


def _pair(model: Any) -> tuple[Any, Any]:
    """Raises UserError for a model without its tokenizer."""
    if isinstance(model, tuple) and len(model) == 2:
        return model
    raise UserError(
        f"the model is a {type(model).__name__}: give the name of one, or (model, tokenizer)"
    )
