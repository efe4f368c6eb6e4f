"""Matplotlib figures for papers."""

from typing import TYPE_CHECKING

from lumenspark.errors import UserError
from lumenspark.inspect.trace import Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 64  # longer texts get tick numbers instead of tokens


def plot_attention(trace: Trace, layer: int, head: int, row: int = 0) -> "Figure":
    """The attention pattern of one head: queries down, keys across.

    Raises UserError if the pattern was not requested or the head does not exist.
    """
    from matplotlib.figure import Figure

    heads = trace[f"blocks.{layer}.attention.pattern"][row].float().cpu()
    if not 0 <= head < len(heads):
        raise UserError(f"there is no head {head}: layer {layer} has {len(heads)}, from 0 on")
    pattern = heads[head]
    tokens = trace.tokens[row]
    if trace.mask is not None:
        kept = trace.mask[row].cpu()
        pattern = pattern[kept][:, kept]
        tokens = [token for token, there in zip(tokens, kept.tolist(), strict=True) if there]
    size = 2.5 + 0.16 * min(len(tokens), MOST_LABELS)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(pattern.numpy(), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    if len(tokens) <= MOST_LABELS:
        labels = [visible(token) for token in tokens]
        axes.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(tokens)), labels, fontsize=7, parse_math=False)
    axes.set_xlabel("attended to")
    axes.set_ylabel("token")
    axes.set_title(f"layer {layer}, head {head}", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="attention")
    return figure


def visible(token: str) -> str:
    """A token with visible white space."""
    return token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·") or "∅"
