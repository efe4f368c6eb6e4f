"""Recipes: the data, model and training options of a run. YAML files, read into dataclasses."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, Lt

from lumenspark.earlier_names import RECIPE_KEYS
from lumenspark.errors import (
    LONGEST_QUOTE,
    LONGEST_REASON,
    UserError,
    did_you_mean,
    quoted,
    reading,
    shortened,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

LARGEST_FILE = 2**20  # bytes of a recipe; ours have two thousand
LONGEST_DURATION = 1e9  # seconds: thirty years

Positive = Annotated[int, Gt(0), Lt(2**63)]
Count = Annotated[int, Ge(0), Lt(2**63)]
Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class CorpusOptions:
    """Reading the corpus."""

    layout: Literal["auto", "plain", "wikitext"] = "auto"
    """WikiText marks titles and headings with = signs; auto looks at the text."""
    headings: Literal["drop", "keep"] = "drop"
    """WikiText only: leave titles, headings and blank lines out of training, or keep them."""
    text_field: str = "text"
    """The field or column that holds the text, in JSON lines, Parquet and hub sets."""
    config: str | None = None
    """Hub sets: the configuration's name."""
    revision: str | None = None
    """Hub sets: the commit or tag."""
    streaming: bool = False
    """Hub sets: read over the network as needed, instead of downloading first."""


@dataclass(frozen=True)
class TokenizerOptions:
    """The tokenizer."""

    name: str | None = None
    """An existing tokenizer (a folder or a hub id); without one, it is learned from train."""
    vocab_size: Annotated[int, Ge(259), Le(2**24)] = 4096
    """Vocabulary size of the learned byte-level BPE, including its three special tokens."""


@dataclass(frozen=True)
class LumiereOptions:
    """The architecture. The vocabulary size comes from the tokenizer."""

    family: Literal["lumiere"] = "lumiere"
    """The model family."""
    hidden_size: Positive = 128
    """Width of the embeddings and of the residual stream."""
    num_hidden_layers: Positive = 4
    """Blocks."""
    num_attention_heads: Positive = 4
    """Attention heads in each block."""
    intermediate_size: Positive = 256
    """Feed-forward width before gating; the gated layer is 2/3 as wide."""
    max_position_embeddings: Annotated[int, Ge(9), Lt(2**63)] = 64
    """Context length in tokens."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Dropout on embeddings, attention weights and the outputs of both sublayers."""

    @property
    def context(self) -> int:
        """Context length in tokens."""
        return self.max_position_embeddings


@dataclass(frozen=True)
class LumensparkOptions:
    """The architecture. The vocabulary size comes from the tokenizer."""

    family: Literal["lumenspark"] = "lumenspark"
    """The model family."""
    embed_dim: Positive = 768
    """Width of the embeddings and of the residual stream."""
    depth: Positive = 8
    """Blocks."""
    heads: Positive = 12
    """Attention heads in each block."""
    rank: Positive | None = 256
    """Rank of the linear layers inside the blocks; null: dense."""
    k: Count | None = 64
    """Slots per head for the tokens before the window; 0: none; null: dense attention."""
    window: Positive = 64
    """Block size: a token attends exactly to its own block and the one before it."""
    projection: Literal["content", "position"] = "content"
    """What selects the slots that a token is written to: its key or its position."""
    seq_length: Annotated[int, Ge(9), Lt(2**63)] = 768
    """Context length in tokens."""
    layer_scale: Annotated[float, Gt(0)] = 0.1
    """Initial value of LayerScale on the outputs of both sublayers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 1 / 17
    """Dropout on embeddings and the outputs of both sublayers."""

    @property
    def context(self) -> int:
        """Context length in tokens."""
        return self.seq_length


ModelOptions = LumiereOptions | LumensparkOptions
FAMILIES: dict[str, type[ModelOptions]] = {
    "lumiere": LumiereOptions,
    "lumenspark": LumensparkOptions,
}


@dataclass(frozen=True)
class OptimOptions:
    """The optimizer and its learning-rate schedule."""

    name: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the weight matrices inside the blocks, AdamW for the rest; adamw: AdamW."""
    muon_lr: Annotated[float, Gt(0)] = 0.02
    """Peak learning rate of Muon."""
    muon_momentum: Annotated[float, Ge(0), Lt(1)] = 0.95
    """Muon's Nesterov momentum."""
    adamw_lr: Annotated[float, Gt(0)] = 0.008
    """Peak learning rate of AdamW."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """AdamW: decay of the first moment."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    """AdamW: decay of the second moment."""
    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Decoupled weight decay (times the learning rate), on the matrices inside the blocks."""
    warmup: Fraction = 0.03
    """Fraction of the steps for the linear warm-up of the learning rates from zero."""
    cooldown: Fraction = 1.0
    """Fraction of the steps, at the end, for their linear cooldown to zero."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradient clipping: the maximum norm of the whole gradient."""


@dataclass(frozen=True)
class TrainOptions:
    """The training loop."""

    steps: Positive = 2000
    """Optimizer steps. A time budget sets this number."""
    max_epochs: Literal["auto"] | Annotated[float, Gt(0)] | None = "auto"
    """Most passes over the text within a budget; auto: as many as its size lets help; null: any."""
    batch_size: Positive = 64
    """Windows per forward pass."""
    gradient_accumulation_steps: Positive = 1
    """Forward passes per optimizer step."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast to bfloat16, weights in float32; auto: bf16 where hardware supports it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: if there is a compiler and the run is long enough to benefit."""
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay of an exponential moving average of the weights, which is what is saved; 0: no EMA."""
    log_every: Positive = 20
    """Steps between log lines."""
    validate_every: Positive = 200
    """Steps between validations."""
    validation_windows: Positive = 1024
    """Windows scored in a validation, evenly spaced over the validation split."""
    early_stopping_patience: Positive | None = None
    """Validations without a lower loss before training stops; null: never."""
    save_every: Positive = 200
    """Steps between checkpoints to resume from."""
    keep_checkpoints: Count = 1
    """Earlier checkpoints to keep, besides last and best."""
    sample_every: Count | None = None
    """Steps between samples of text; null: at each validation; 0: none."""
    prompt: str | None = None
    """Prompt of the samples; null: one that suits the text."""
    threads: Positive | None = None
    """CPU threads; null: the default of torch."""
    tracker: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Experiment tracker, in addition to metrics.jsonl; each is an optional extra."""

    @property
    def sample_every_steps(self) -> int:
        """Steps between samples of text; 0: none."""
        return self.validate_every if self.sample_every is None else self.sample_every


@dataclass(frozen=True)
class DistillOptions:
    """Distillation from teachers: the same recipe with other seeds, trained first."""

    teachers: Count = 0
    """Number of teachers; 0: no distillation."""
    steps: Positive = 1000
    """Optimizer steps of each teacher. A time budget sets this number."""
    budget_fraction: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Fraction of the budget's training time for all teachers together."""
    weight: Fraction = 0.7
    """Fraction of the loss on teacher samples; the rest is on the text."""
    samples: Positive = 16
    """Samples per token from each teacher's prediction."""


@dataclass(frozen=True)
class InspectOptions:
    """Recording the model's internals during training."""

    every: Count = 0
    """Steps between records of head scores, logit lens and norms, for inspect.html; 0: none."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run. Immutable: changes make a copy (:func:`with_overrides`)."""

    name: str = "lumiere-1m"
    """Name of the recipe."""
    data: str = "tales"
    """auto, tales, python-docs, wikitext-2, a text file or folder, or a data set id of the hub."""
    budget: str | None = None
    """Time for set-up and training, such as 90s, 5m or 1h: sets train.steps once, at the start."""
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0
    """Determines initial weights, order of the windows, dropout and samples."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on; auto: the fastest one available."""
    init_from: str | None = None
    """Weights (and tokenizer) to start from: a run, a folder or a hub id."""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    model: ModelOptions = field(default_factory=LumiereOptions)
    optim: OptimOptions = field(default_factory=OptimOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    inspect: InspectOptions = field(default_factory=InspectOptions)

    @property
    def tokens_per_step(self) -> int:
        """Predictions that one optimizer step learns from."""
        windows = self.train.batch_size * self.train.gradient_accumulation_steps
        return windows * self.model.context


def recipe_names() -> list[str]:
    """The presets that come with the package, by name."""
    folder = resources.files("lumenspark") / "recipes"
    return sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_recipe(name: str) -> Recipe:
    """A preset by its name, or a YAML file by its path.

    Raises UserError for a name that is neither, and for every key or value that is wrong.
    """
    return recipe_from(read_content(name), source=name)


def read_content(name: str) -> Any:
    """The content of a preset or YAML file, not validated. Raises UserError for invalid YAML."""
    if name in recipe_names():
        text = (resources.files("lumenspark") / "recipes" / f"{name}.yaml").read_text("utf-8")
    else:
        text = _read(name)
    try:
        return yaml.safe_load(text) or {}
    except Exception as error:  # its constructors raise what int() and datetime() raise
        reason = shortened(" ".join(str(error).split()), LONGEST_REASON)
        raise UserError(f"{name} is not valid YAML: {reason or type(error).__name__}") from error


def _read(name: str) -> str:
    """The text of a recipe file."""
    path = Path(name)
    if not _is_file(path):
        if path.suffix in {".yaml", ".yml"}:
            raise UserError(f"there is no recipe file {_shown(name)}")
        known = recipe_names()
        raise UserError(
            f"there is no recipe {quoted(name)}{did_you_mean(name, known)}: the presets are "
            f"{', '.join(known)}, and a path to a .yaml file works too"
        )
    with reading(name, "name a file that can be read"):
        data = path.read_bytes() if path.stat().st_size <= LARGEST_FILE else None
    if data is None:
        raise UserError(f"{name} has more than {LARGEST_FILE:,} bytes, so it is no recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text, at byte {error.start}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def recipe_from(content: Any, source: str) -> Recipe:
    """A recipe from nested dictionaries. ``source`` is what an error message calls them."""
    from pydantic import ValidationError

    if not isinstance(content, Mapping):
        raise UserError(f"{source}: a recipe is a mapping of keys to values")
    family = _family(content, source)
    _check_keys(content, asdict(Recipe(model=family())), source, prefix="")
    if isinstance(content.get("model"), Mapping):
        content = {**content, "model": {"family": family().family, **content["model"]}}
    if isinstance(content.get("budget"), int | float):  # parse_duration asks for its unit
        content = {**content, "budget": quoted(content["budget"])}
    try:
        with reading(source, "write single values, and lists of them, at its keys"):
            recipe: Recipe = _validator().validate_python(content)
    except UserError as error:
        if isinstance(error.__cause__, ValidationError):
            raise _wrong_value(error.__cause__, family, source) from error
        raise
    _check_finite(asdict(recipe), source, prefix="")
    if recipe.budget is not None:
        parse_duration(recipe.budget, source)
    return recipe


@cache
def _validator() -> "TypeAdapter[Recipe]":
    from pydantic import TypeAdapter

    return TypeAdapter(Recipe)


def _wrong_value(error: "ValidationError", family: type[ModelOptions], source: str) -> UserError:
    # An error inside a model's options is there once for each family, with its class's name.
    others = {options.__name__ for options in FAMILIES.values()} - {family.__name__}
    errors = error.errors(include_url=False, include_context=False)
    first = next((e for e in errors if others.isdisjoint(e["loc"])), errors[0])
    key = ".".join(str(part) for part in first["loc"] if part != family.__name__)
    message = _lower_first(shortened(first["msg"], LONGEST_REASON))
    return UserError(f"{source}: {key} = {quoted(first['input'])} is wrong: {message}")


def _check_finite(content: Mapping[str, Any], source: str, prefix: str) -> None:
    """Raise UserError for infinite values, which pass a bound such as "above 0"."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            _check_finite(value, source, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{source}: {prefix}{key} = {value} is wrong: it must be finite")


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """A changed copy: keys are dotted (``optim.muon_lr``) or hold a mapping for a whole section."""
    content = asdict(recipe)
    if "budget" not in overrides and _names_steps(overrides):
        content["budget"] = None  # an explicit number of steps replaces a preset's budget
    for dotted, value in overrides.items():
        *sections, key = str(dotted).split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UserError(f"{recipe.name}: unknown key {_shown(dotted)}")
        if isinstance(value, Mapping) and isinstance(place.get(key), dict):
            place[key].update(value)
        else:
            place[key] = value
    return recipe_from(content, source=recipe.name)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, defaults included."""
    return yaml.safe_dump(asdict(recipe), sort_keys=False, allow_unicode=True)


def parse_duration(text: str, source: str = "budget") -> float:
    """Seconds in ``90s``, ``5m`` or ``1.5h``. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h)?", text.strip())
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0.0
    if not match or not 0 < seconds < LONGEST_DURATION:
        raise UserError(f"{source}: a budget is a time such as 90s, 5m or 1h, not {quoted(text)}")
    if match[2] is None:
        number = match[1]
        raise UserError(
            f"{source}: a time of {number} what: write {number}s, {number}m or {number}h"
        )
    return seconds


def _family(content: Mapping[str, Any], source: str) -> type[ModelOptions]:
    """The options that the recipe's ``model.family`` has."""
    model = content.get("model")
    name = model.get("family", "lumiere") if isinstance(model, Mapping) else "lumiere"
    if not isinstance(name, str) or name not in FAMILIES:
        known = list(FAMILIES)
        near = did_you_mean(name, known) if isinstance(name, str) else ""
        raise UserError(
            f"{source}: model.family = {quoted(name)} is wrong{near}: the families are "
            f"{', '.join(known)}"
        )
    return FAMILIES[name]


def _names_steps(overrides: Mapping[str, Any]) -> bool:
    section = overrides.get("train")
    return "train.steps" in overrides or (isinstance(section, Mapping) and "steps" in section)


def _check_keys(
    content: Mapping[str, Any], known: dict[str, Any], source: str, prefix: str
) -> None:
    for key, value in content.items():
        if key not in known:
            raise UserError(
                f"{source}: unknown key {prefix}{_shown(key)}{_hint(key, known, prefix)}"
            )
        if isinstance(known[key], dict) and isinstance(value, Mapping):
            _check_keys(value, known[key], source, prefix=f"{prefix}{key}.")


def _hint(key: object, known: dict[str, Any], prefix: str) -> str:
    if not isinstance(key, str):
        return ""
    current = RECIPE_KEYS.get(prefix.rstrip("."), {}).get(key)
    return f" (it is called {current} now)" if current else did_you_mean(key, list(known))


def _shown(key: object) -> str:
    """A key or path, unquoted if it is short and printable."""
    plain = isinstance(key, str) and key.isprintable() and 0 < len(key) <= LONGEST_QUOTE
    return str(key) if plain else quoted(key)


def _lower_first(message: str) -> str:
    return message[:1].lower() + message[1:]
