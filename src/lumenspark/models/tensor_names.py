"""Names and shapes of a model's inner tensors: the same in code, docs and plots."""

from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class TensorSizes:
    """The sizes that determine the shapes of a model's inner tensors."""

    layers: int
    heads: int
    key_heads: int  # fewer than heads in grouped-query attention
    head_dim: int
    width: int  # of the residual stream
    units: int  # of the feed-forward layers
    vocabulary: int
    gated: bool = False  # whether the feed-forward layers have a gate
    slots: int | None = None  # per head; None: dense attention


def tensor_names(sizes: TensorSizes) -> dict[str, Shape]:
    """All names with their shapes, in the order in which the tensors are computed.

    ``B`` rows, ``T`` input tokens, ``S`` tokens attended to (with a cache, more than T).
    """
    stream: Shape = ("B", "T", sizes.width)
    names: dict[str, Shape] = {"embed": stream}
    for layer in range(sizes.layers):
        for name, shape in _block(sizes, stream):
            names[f"blocks.{layer}.{name}"] = shape
    names["final_norm"] = stream
    names["logits"] = ("B", "T", sizes.vocabulary)
    return names


def _block(sizes: TensorSizes, stream: Shape) -> Iterator[tuple[str, Shape]]:
    def by_head(heads: int, last: int | str) -> Shape:
        return ("B", heads, "T", last)

    yield "attention.input", stream
    yield "attention.query", by_head(sizes.heads, sizes.head_dim)
    yield "attention.key", by_head(sizes.key_heads, sizes.head_dim)
    yield "attention.value", by_head(sizes.key_heads, sizes.head_dim)
    if sizes.slots:
        yield "attention.slots.write", by_head(sizes.heads, sizes.slots)
        yield "attention.slots.read", by_head(sizes.heads, sizes.slots)
    yield "attention.pattern", by_head(sizes.heads, "S")
    yield "attention.mixed", by_head(sizes.heads, sizes.head_dim)
    yield "attention.heads", by_head(sizes.heads, sizes.width)
    yield "attention.out", stream
    yield "residual_mid", stream
    yield "mlp.input", stream
    if sizes.gated:
        yield "mlp.gate", ("B", "T", sizes.units)
    yield "mlp.up", ("B", "T", sizes.units)
    yield "mlp.hidden", ("B", "T", sizes.units)
    yield "mlp.out", stream
    yield "residual", stream
