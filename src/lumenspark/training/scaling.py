"""One recipe at many sizes: shape, context and batch follow from a number of parameters."""

import math
import re
from dataclasses import replace

from lumenspark.errors import UserError, quoted
from lumenspark.recipe import LumiereOptions, Recipe, with_overrides
from lumenspark.training.parameter_count import lumiere_parameters

BASE = LumiereOptions()  # Lumiére-1M, the size that recipes are written for
BASE_SIZE = 1_000_000
VOCABULARY = 4096
SMALLEST, LARGEST = 300_000, 100_000_000
# From this width on there are four heads of 64, the size that fused attention is made for.
WIDE = 256
WIDTHS = (*range(64, WIDE, 32), *range(WIDE, 1089, 64))


def scaled(recipe: Recipe, size: str) -> Recipe:
    """``recipe``, written for Lumiére-1M, for a model of ``size`` parameters (``3m``, ``500k``).

    The rules, and why (measured: ``docs/scaling.md``):

    - Depth is 4 (width / 128)^0.5, rounded down or up. Loss depends little on the shape at a given
      number of parameters (Kaplan et al. 2020, arXiv 2001.08361), and width is faster than depth.
    - Width is then the nearest to the size (:func:`nearest_shape`): in steps of 32 with
      heads of 32, as at 1m, and from 256 on in steps of 64 with heads of 64. The feed-forward layer
      is twice as wide, as at 1m.
    - The context doubles with every threefold size: 64 tokens at 1m, 128 at 3m, 256 at 10m, 512 at
      30m; never below 64, the context of the card's protocol.
    - A step's tokens double with every tenfold size: 4,096 at 1m and 3m, 8,192 at 10m and 30m. A
      larger model reaches lower losses, where gradients are noisier (McCandlish et al. 2018, arXiv
      1812.06162), but a short training needs many steps. Validation keeps its tokens.
    - Muon's learning rate stays: its updates have the same spectral norm at every width (Bernstein
      and Newhouse 2024, arXiv 2409.20325). AdamW's, for the tied embeddings and the gains, falls as
      width^-1/4, which keeps its ratio to the measured best one. Weight decay stays.
    - The budget stays, since it is the time that a user has. Larger models need a longer one.

    At ``1m`` nothing changes. The name says the size: ``lumiere-1m`` becomes ``lumiere-3m``.

    Raises UserError for a size out of range, and for a recipe that is not for Lumiére-1M.
    """
    parameters = parse_size(size)
    if not isinstance(recipe.model, LumiereOptions):
        raise UserError(
            f"a size scales recipes of the family lumiere, and {recipe.name} is of the family "
            f"{recipe.model.family}: leave the size out, or choose lumiere-1m"
        )
    if replace(recipe.model, dropout=BASE.dropout) != BASE:
        raise UserError(
            f"a size scales recipes for the shape of lumiere-1m, and {recipe.name} has another: "
            "leave the size out, or choose lumiere-1m"
        )
    context = BASE.context * 2 ** max(0, round(math.log(parameters / BASE_SIZE, 3)))
    tokens = recipe.tokens_per_step * 2 ** max(0, round(math.log10(parameters / BASE_SIZE)))
    width, depth = nearest_shape(parameters, context)
    windows = tokens // (context * recipe.train.gradient_accumulation_steps)
    validation_windows = recipe.train.validation_windows * BASE.context // context
    return with_overrides(
        recipe,
        {
            "name": _with_size(recipe.name, size.strip().lower()),
            "model.hidden_size": width,
            "model.num_hidden_layers": depth,
            "model.num_attention_heads": width // (64 if width >= WIDE else 32),
            "model.intermediate_size": 2 * width,
            "model.max_position_embeddings": context,
            "optim.adamw_lr": recipe.optim.adamw_lr * (BASE.hidden_size / width) ** 0.25,
            "train.batch_size": max(1, windows),
            "train.validation_windows": max(1, validation_windows),
        },
    )


def check_starts_afresh(recipe: Recipe) -> None:
    """Raise UserError where a scaled recipe names weights to start from."""
    if recipe.init_from:
        raise UserError(
            "a size makes a model of a new shape, and the weights that init_from names have theirs "
            "already: leave out one of the two"
        )


def parse_size(size: str) -> float:
    """Parameters in ``3m``, ``1.5m`` or ``500k``. Raises UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([km])", size.strip().lower())
    parameters = float(match[1]) * {"k": 1e3, "m": 1e6}[match[2]] if match else 0.0
    if not SMALLEST <= parameters <= LARGEST:
        raise UserError(
            f"a size is a number of parameters from 300k to 100m, such as 3m, not {quoted(size)}"
        )
    return parameters


def nearest_shape(parameters: float, context: int) -> tuple[int, int]:
    """Width and depth on the rule's line whose :func:`parameter_count` comes nearest.

    Nearest as a ratio. From 900k to 100m the count is within 20% of ``parameters``; below, there
    are few widths.
    """
    shapes = []
    for width in WIDTHS:
        depth = BASE.num_hidden_layers * math.sqrt(width / BASE.hidden_size)
        shapes += [(width, each) for each in {math.floor(depth), math.ceil(depth)}]

    def miss(shape: tuple[int, int]) -> float:
        return abs(math.log(parameter_count(*shape, context) / parameters))

    return min(shapes, key=miss)


def parameter_count(width: int, depth: int, context: int) -> int:
    """Parameters of a Lumiére with 4,096 tokens and a feed-forward width of 2 ``width``."""
    shape = LumiereOptions(
        hidden_size=width,
        num_hidden_layers=depth,
        intermediate_size=2 * width,
        max_position_embeddings=context,
    )
    return lumiere_parameters(shape, VOCABULARY)


def _with_size(name: str, size: str) -> str:
    """``lumiere-1m-best`` to ``lumiere-3m-best``; a name that says no size gets one at its end."""
    parts = name.split("-")
    if "1m" not in parts:
        return f"{name}-{size}"
    return "-".join(size if part == "1m" else part for part in parts)
