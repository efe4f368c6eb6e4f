"""Low-rank compression of linear layers by truncated SVD, plain or activation-whitened.

Weights W (out, in) become the rank-r product W' that minimises ‖(W - W') S‖, where S Sᵀ is the mean
of x xᵀ over the layer's inputs x on a calibration text: the smallest output error on that text
(SVD-LLM, Wang et al. 2024, arXiv 2403.07378). Without a text S is the identity, which minimises the
weight error (Eckart and Young 1936).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lumenspark.compression.activations import Activations, layer_activations
from lumenspark.compression.rank_allocation import RankOptions, rank_by_energy, ranks_by_size
from lumenspark.models import modeling_compressed
from lumenspark.models.lowrank_linear import LowRankLinear
from lumenspark.models.module_ranks import bias_of, is_linear, shape_of, weight_of

# Added to the mean of x xᵀ, relative to its mean eigenvalue: keeps S invertible on short texts.
DAMPING = 1e-3


@dataclass(frozen=True)
class CompressedLayer:
    """A layer that compression applies to.

    Attributes:
        rank: rank after compression; None for a dense layer.
        error: relative error ‖(W - W') S‖ / ‖W S‖: of the output on the calibration text, or of the
            weights without one; 0 for an unchanged layer.
        weights_before, weights: number of weights before and after, without the bias.
    """

    name: str
    in_features: int
    out_features: int
    rank: int | None
    error: float
    weights_before: int
    weights: int


@dataclass(frozen=True)
class Compression:
    """Result of :func:`compress`. ``parameters`` counts the whole model, tied weights once.

    Attributes:
        unchanged: number of other modules with weight matrices, by class name, without embeddings
            and the output layer.
    """

    layers: list[CompressedLayer]
    unchanged: dict[str, int]
    whitened: bool
    parameters_before: int
    parameters: int

    @property
    def weight_ratio(self) -> float:
        """Weights of these layers after compression, relative to before."""
        return sum(row.weights for row in self.layers) / sum(
            row.weights_before for row in self.layers
        )


def compress(
    model: Any,
    *,
    rank: int | None = None,
    energy: float | None = None,
    params: float | None = None,
    activations: Mapping[str, Activations] | None = None,
) -> Compression:
    """Make the linear layers of a causal language model low-rank, in place.

    Give exactly one target; layers in which it saves nothing stay unchanged:

    - ``rank``: the rank of every layer.
    - ``energy``: the fraction of spectral energy (sum of squared singular values of W S) that each
      layer retains, at the lowest rank that does.
    - ``params``: the fraction of weights that all layers retain together. Ranks are allocated by
      estimated increase of the loss (nats) where ``activations`` are given, else by energy.

    ``activations``, from :func:`collect_activations`, whiten the SVD. Embeddings, the output layer,
    layers with shared weights, and biases stay unchanged; low-rank layers get a lower rank.

    The model saves, loads and generates as before. Its config lists the rank of each changed layer
    (``module_ranks``), and a transformers model gets the class from :mod:`.modeling_compressed`.

    Raises ValueError where the model cannot be compressed; the model is then unchanged.
    """
    check_target(rank, energy, params)
    layers, model_class = check_model(model)
    unchanged = other_layers(model, layers)
    known = activations or {}
    spectra = [_decompose(name, layer, known.get(name)) for name, layer in layers.items()]
    ranks = _choose([spectrum.options for spectrum in spectra], rank, energy, params)
    before = _count(model)
    rows = [_make_low_rank(model, *pair) for pair in zip(spectra, ranks, strict=True)]
    changed = {row.name: row.rank for row in rows if row.weights < row.weights_before}
    _set_ranks(model, model_class, changed)
    return Compression(rows, unchanged, activations is not None, before, _count(model))


def collect_activations(model: Any, windows: Tensor) -> dict[str, Activations]:
    """Activation statistics of all compressible layers on ``windows`` (N, T + 1) of token ids.

    See :func:`.activations.layer_activations`.
    """
    return layer_activations(model, windows, linear_layers(model))


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The compressible layers by name, in model order.

    Dense (nn.Linear, Conv1D) and low-rank layers, without the output layer and layers that share
    weights with another module.
    """
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    left_out = {id(model.get_output_embeddings())}
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if not is_linear(module) or id(module) in left_out:
            continue
        if isinstance(module, LowRankLinear):
            left_out |= {id(module.U), id(module.V)}
        shared = any(uses[id(parameter)] > 1 for parameter in module.parameters())
        if not shared and _highest_rank(module):
            found[name] = module
    return found


def other_layers(model: Any, layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """Number of modules with weight matrices besides ``layers``, by class name.

    Not compressible: subclasses of nn.Linear (their forward pass may differ), fused experts,
    convolutions, quantised layers, layers too small or with shared weights.
    """
    known = {id(module) for layer in layers.values() for module in layer.modules()}
    known.add(id(model.get_output_embeddings()))
    found: dict[str, int] = {}
    for module in model.modules():
        matrices = [p for p in module.parameters(recurse=False) if p.ndim > 1]
        if matrices and id(module) not in known and not isinstance(module, nn.Embedding):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


def check_model(model: Any) -> tuple[dict[str, nn.Module], Any]:
    """The compressible layers, and the model's class after compression.

    Raises ValueError for a model without such layers, or of an unsupported class.
    """
    layers, kind = linear_layers(model), type(model).__name__
    if not layers:
        others = other_layers(model, layers)
        listed = ", ".join(f"{count} {name}" for name, count in others.items()) or "none"
        raise ValueError(
            f"a {kind} has no compressible layers: these are nn.Linear and Conv1D, not their "
            f"subclasses; its layers with weight matrices are {listed}"
        )
    return layers, _class_with_ranks(model)


def check_target(rank: int | None, energy: float | None, params: float | None) -> None:
    """Raise ValueError unless exactly one target is given, within its range."""
    if sum(value is not None for value in (rank, energy, params)) != 1:
        raise ValueError("give exactly one of rank, energy and params")
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}: it must be 1 or more")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"energy is {energy}: it is a fraction, above 0 and at most 1")
    if params is not None and not 0 < params < 1:
        raise ValueError(f"params is {params}: it is a fraction between 0 and 1")


@dataclass(frozen=True)
class _Spectrum:
    """The SVD of a layer, truncated at the highest rank R that saves weights.

    Attributes:
        left, right: factors (out, R) and (R, in); the first r columns and rows give rank r.
        options: size and lost energy of each rank.
    """

    name: str
    layer: nn.Module
    left: Tensor
    right: Tensor
    options: RankOptions


def _decompose(name: str, layer: nn.Module, activations: Activations | None) -> _Spectrum:
    """SVD in float64 on the CPU. Raises ValueError for a non-finite weight or activation."""
    weight = weight_of(layer).detach().cpu().double()
    if not weight.isfinite().all():
        raise ValueError(f"{name} has weights that are not finite")
    if activations is not None and not activations.gram.isfinite().all():
        raise ValueError(f"{name} has inputs on the text that are not finite")
    root, inverse = _whitening(activations, weight.shape[1])
    left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
    energies, highest = singular.square(), _highest_rank(layer)
    # Lost energy at rank 1, 2, …, summed from the smallest singular value.
    lost = energies.flip(0).cumsum(0).flip(0)[1 : highest + 1] / energies.sum().clamp(min=1e-300)
    half = singular[:highest].sqrt()  # factors of equal norm train best
    return _Spectrum(
        name,
        layer,
        (left[:, :highest] * half).float(),
        (half[:, None] * right[:highest] @ inverse).float(),
        RankOptions(
            per_rank=sum(shape_of(layer)),
            weights=_weights(layer),
            lost_energy=lost.numpy(),
            importance=_importance(activations, float(energies.sum())),
        ),
    )


def _whitening(activations: Activations | None, features: int) -> tuple[Tensor, Tensor]:
    """S and its inverse, (in, in): S Sᵀ is the damped Gram matrix, scaled to mean eigenvalue 1.

    The identity without activations, and where all inputs are zero.
    """
    scale = 0.0 if activations is None else _scale(activations)
    if activations is None or scale == 0.0:
        identity = torch.eye(features, dtype=torch.float64)
        return identity, identity
    values, vectors = torch.linalg.eigh(activations.gram / scale)
    roots = (values.clamp(min=0) + DAMPING).sqrt()
    return vectors * roots, (vectors / roots).T


def _scale(activations: Activations) -> float:
    """The mean eigenvalue of the Gram matrix: the mean square of an input."""
    return float(activations.gram.trace()) / len(activations.gram)


def _importance(activations: Activations | None, energy: float) -> float:
    """Estimated loss increase (nats per token) for losing the whole output; 1 without activations.

    The second-order term with a scalar Fisher approximation, error² · gradient² / 2: rough, but in
    the same unit for all layers.
    """
    if activations is None:
        return 1.0
    return activations.sensitivity * _scale(activations) * energy / 2


def _choose(
    options: list[RankOptions], rank: int | None, energy: float | None, params: float | None
) -> list[int | None]:
    """The rank of each layer, None for an unchanged one. Raises ValueError if none changes."""
    if params is not None:
        return ranks_by_size(options, params)
    if energy is not None:
        asked, ranks = f"energy {energy}", [rank_by_energy(option, energy) for option in options]
    else:
        assert rank is not None
        asked, ranks = f"rank {rank}", [rank if rank <= o.highest_rank else None for o in options]
    if not any(ranks):
        most = max(option.highest_rank for option in options)
        raise ValueError(
            f"{asked} saves no weights in any layer: use a smaller value (the highest rank that "
            f"saves weights is {most})"
        )
    return ranks


@torch.no_grad()
def _make_low_rank(model: Any, spectrum: _Spectrum, rank: int | None) -> CompressedLayer:
    """Replace the layer by one of that rank; None leaves it unchanged."""
    old, new, error = spectrum.layer, spectrum.layer, 0.0
    if rank is not None:
        bias, weight = bias_of(old), next(old.parameters())
        new = LowRankLinear(*shape_of(old), rank, bias is not None).to(weight.device, weight.dtype)
        new.U.weight.copy_(spectrum.left[:, :rank])
        new.V.weight.copy_(spectrum.right[:rank])
        if bias is not None:
            new.U.bias.copy_(bias)
        model.set_submodule(spectrum.name, new.train(old.training))
        error = float(spectrum.options.lost_energy[rank - 1]) ** 0.5
    return CompressedLayer(
        spectrum.name,
        *shape_of(old),
        rank=new.rank if isinstance(new, LowRankLinear) else None,
        error=error,
        weights_before=_weights(old),
        weights=_weights(new),
    )


def _class_with_ranks(model: Any) -> Any:
    """The class that reads ``config.module_ranks``: the model's own, if it is of this package."""
    own = type(model)
    if hasattr(type(model.config), "module_ranks"):
        return own
    base = getattr(transformers, own.__name__, None)
    low_rank = base and modeling_compressed.low_rank_class(base)
    if own not in (base, low_rank):
        raise ValueError(
            f"a {own.__name__} cannot be compressed: only architectures of transformers and of "
            "lumenspark are supported"
        )
    return low_rank


def _set_ranks(model: Any, model_class: Any, ranks: dict[str, int | None]) -> None:
    """Record the ranks in the config, so that the model saves and loads with them."""
    config = model.config
    if model_class.__module__ == modeling_compressed.__name__:
        model.__class__ = model_class  # differs in construction and saving only
        code = modeling_compressed.__name__.rpartition(".")[2]
        config.auto_map = {"AutoModelForCausalLM": f"{code}.{model_class.__name__}"}
        # transformers renames some tensors on saving (GPT-NeoX's output layer) and renames them
        # back on loading for its own classes only.
        model._weight_conversions = []
    config.module_ranks = (getattr(config, "module_ranks", None) or {}) | ranks


def _highest_rank(layer: nn.Module) -> int:
    """The highest rank with fewer weights than the layer has."""
    return (_weights(layer) - 1) // sum(shape_of(layer))


def _weights(layer: nn.Module) -> int:
    """Number of weights, without the bias."""
    bias = bias_of(layer)
    return sum(p.numel() for p in layer.parameters()) - (0 if bias is None else bias.numel())


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
