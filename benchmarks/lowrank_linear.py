"""LowRankLinear against a dense linear layer: parameters and speed, from rank 16 to break-even.

    python benchmarks/lowrank_linear.py

Each row is a layer of that rank on the same tokens, forward and forward + backward, beside the
dense layer of the same shape in the same run, in turn; medians. Break-even is the first rank that
saves no parameters, where LowRankLinear refuses; the last row is the one before it.
"""

import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import nn

from lumenspark.data.cache_folder import cache_folder
from lumenspark.device import prepare_process
from lumenspark.models.lowrank_linear import LowRankLinear, highest_rank


@dataclass
class Options:
    """Parameters and speed of low-rank layers against dense ones."""

    shapes: tuple[tuple[int, int], ...] = ((768, 768), (768, 3072))
    """Features in and out."""
    tokens: int = 4096
    runs: int = 7
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = 0
    """0: torch's own choice."""


def milliseconds(layer: nn.Module, hidden: torch.Tensor, backward: bool) -> float:
    began = time.perf_counter()
    if backward:
        layer(hidden).sum().backward()
    else:
        with torch.no_grad():
            layer(hidden)
    return 1000 * (time.perf_counter() - began)


def ranks(features_in: int, features_out: int) -> list[int]:
    """16, doubled up to break-even, and the last one that saves anything."""
    most = highest_rank(features_in, features_out)
    doubled = [16 * 2**power for power in range(12) if 16 * 2**power < most]
    return [*doubled, most]


def compare(features_in: int, features_out: int, options: Options) -> None:
    dtype = getattr(torch, options.dtype)
    hidden = torch.randn(options.tokens, features_in, dtype=dtype, requires_grad=True)
    layers: dict[int | None, nn.Module] = {None: nn.Linear(features_in, features_out, bias=False)}
    for rank in ranks(features_in, features_out):
        layers[rank] = LowRankLinear(features_in, features_out, rank)
    times: dict[tuple[int | None, bool], list[float]] = {}
    for run in range(1 + options.runs):  # the first one warms up
        for rank, layer in layers.items():
            layer.to(dtype)
            for backward in (False, True):
                measured = milliseconds(layer, hidden, backward)
                if run:
                    times.setdefault((rank, backward), []).append(measured)
    medians = {key: statistics.median(measured) for key, measured in times.items()}
    sizes = {rank: sum(p.numel() for p in layer.parameters()) for rank, layer in layers.items()}
    print(f"\n{features_in} -> {features_out}, {options.tokens} tokens, {options.dtype}")
    print(
        f"{'rank':>6} {'parameters':>11} {'of dense':>9} {'forward ms':>11} {'times as fast':>14} "
        f"{'+ backward ms':>14} {'times as fast':>14}"
    )
    for rank in layers:
        forward, both = medians[rank, False], medians[rank, True]
        print(
            f"{rank or 'dense':>6} {sizes[rank]:>11,} {sizes[rank] / sizes[None]:>9.1%} "
            f"{forward:>11.2f} {medians[None, False] / forward:>14.2f} "
            f"{both:>14.2f} {medians[None, True] / both:>14.2f}"
        )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    prepare_process("cpu", options.threads or None, cache_folder())
    torch.manual_seed(0)
    for features_in, features_out in options.shapes:
        compare(features_in, features_out, options)


if __name__ == "__main__":
    main()
