"""Scaling of a recipe: shape, context and batch from a number of parameters."""

import math
import re
from dataclasses import replace

from lumenspark.errors import UserError, quoted
from lumenspark.recipe import LumiereOptions, Recipe, with_overrides
from lumenspark.training.parameter_count import lumiere_parameters

BASE = LumiereOptions()  # Lumiére-1M, the model of the recipes to scale
BASE_SIZE = 1_000_000
VOCABULARY = 4096
SMALLEST, LARGEST = 300_000, 100_000_000
# From this width on, heads have 64 dimensions, which suits fused attention; below, 32.
WIDE = 256
WIDTHS = (*range(64, WIDE, 32), *range(WIDE, 1089, 64))


def scaled(recipe: Recipe, size: str) -> Recipe:
    """A recipe of Lumiére-1M, scaled to ``size`` parameters (``3m``, ``500k``).

    The rules and their reasons (measurements: ``docs/scaling.md``):

    - Depth is 4 (width / 128)^0.5, rounded down or up. Loss depends little on the shape at a given
      number of parameters (Kaplan et al. 2020, arXiv 2001.08361), and width is faster than depth.
    - The width is the one whose parameter count is nearest to the size (:func:`nearest_shape`): in
      steps of 32 with heads of 32, as at 1m; from 256 on, in steps of 64 with heads of 64. The
      feed-forward layer is twice as wide, as at 1m.
    - The context doubles with every factor of 3 in size: 64 tokens at 1m, 128 at 3m, 256 at 10m,
      512 at 30m; never below 64, the context of the card's protocol.
    - The tokens per step double with every factor of 10: 4,096 at 1m and 3m, 8,192 at 10m and 30m.
      A larger model reaches lower losses, where gradients are noisier (McCandlish et al. 2018,
      arXiv 1812.06162), but a short run needs many steps. The tokens of a validation stay constant.
    - Muon's learning rate stays constant: its updates have the same spectral norm at every width
      (Bernstein and Newhouse 2024, arXiv 2409.20325). AdamW's, for the tied embeddings and
      the gains, falls as width^-1/4, which keeps its ratio to the best measured one. Weight decay
      stays constant.
    - The budget stays the same, because the user sets it. Larger models need a longer one.

    ``1m`` leaves the recipe unchanged. The name contains the size: ``lumiere-1m`` becomes
    ``lumiere-3m``.

    Raises UserError for a size out of range, and for a recipe of another model than Lumiére-1M.
    """
    parameters = parse_size(size)
    if not isinstance(recipe.model, LumiereOptions):
        raise UserError(
            f"size scales recipes of the family lumiere, and {recipe.name} has the family "
            f"{recipe.model.family}: omit the size, or choose lumiere-1m"
        )
    if replace(recipe.model, dropout=BASE.dropout) != BASE:
        raise UserError(
            f"size scales recipes with the shape of lumiere-1m, and {recipe.name} has another: "
            "omit the size, or choose lumiere-1m"
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
    """Raise UserError if a scaled recipe names weights to start from."""
    if recipe.init_from:
        raise UserError(
            "size changes the shape of the model, and init_from names weights of a fixed shape: "
            "omit one of them"
        )


def parse_size(size: str) -> float:
    """The number in ``3m``, ``1.5m`` or ``500k``. Raises UserError for other formats."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([km])", size.strip().lower())
    parameters = float(match[1]) * {"k": 1e3, "m": 1e6}[match[2]] if match else 0.0
    if not SMALLEST <= parameters <= LARGEST:
        raise UserError(
            f"a size is a number of parameters from 300k to 100m, such as 3m, not {quoted(size)}"
        )
    return parameters


def nearest_shape(parameters: float, context: int) -> tuple[int, int]:
    """Width and depth by the rule with the nearest :func:`parameter_count`, as a ratio.

    From 900k to 100m the count is within 20% of ``parameters``; for smaller sizes, widths are few.
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
    """``lumiere-1m-best`` to ``lumiere-3m-best``; a name without a size gets it appended."""
    parts = name.split("-")
    if "1m" not in parts:
        return f"{name}-{size}"
    return "-".join(size if part == "1m" else part for part in parts)
