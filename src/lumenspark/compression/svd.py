"""A model's linear layers made low-rank by truncated SVD, whitened where a text was run through it.

Weights W (out, in) become a product W' of rank r: the one with the smallest ‖(W - W') S‖, where
S Sᵀ is the mean of x xᵀ over the layer's inputs x. That is the smallest error of the layer's output
on the text that the inputs come from (SVD-LLM, Wang et al. 2024, arXiv 2403.07378). Without a text
S is the identity, and the smallest error is that of the weights (Eckart and Young 1936).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from lumenspark.compression.activations import Activations, run_text
from lumenspark.compression.rank_allocation import Options, rank_by_energy, ranks_by_size
from lumenspark.models import modeling_compressed
from lumenspark.models.lowrank_linear import LowRankLinear
from lumenspark.models.module_ranks import bias_of, is_linear, shape_of, weight_of

# Added to the mean of x xᵀ, as a share of its mean eigenvalue. Directions in which the text says
# nothing still count a little, so that S has an inverse, however short the text.
DAMPING = 1e-3


@dataclass(frozen=True)
class CompressedLayer:
    """One row of the table: a layer that could be made low-rank.

    Attributes:
        rank: its rank now; None where it is dense.
        error: ‖(W - W') S‖ / ‖W S‖, so of its weights, or of its output on the text where there
            was one; 0 where it stayed as it was.
        weights_before, weights: how many it had and has, the bias left out.
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
    """What :func:`compress` has done. Parameters are the whole model's, tied ones counted once.

    Attributes:
        left: how many other modules have matrices of weights, by their class: they stay as they
            are. Embeddings and the output layer are not among them.
    """

    layers: list[CompressedLayer]
    left: dict[str, int]
    whitened: bool
    parameters_before: int
    parameters: int

    @property
    def share(self) -> float:
        """Of the weights of these layers, what is left."""
        return sum(row.weights for row in self.layers) / sum(
            row.weights_before for row in self.layers
        )


def compress(
    model: Any,
    *,
    rank: int | None = None,
    keep: float | None = None,
    params: float | None = None,
    activations: Mapping[str, Activations] | None = None,
) -> Compression:
    """Make the linear layers of a causal language model low-rank, in place.

    Exactly one of these says how far; a layer for which that saves nothing stays as it is:

    - ``rank``: every layer gets this one.
    - ``keep``: each layer gets the lowest rank that keeps this share of its spectral energy, the
      sum of the squared singular values of W S.
    - ``params``: all layers together keep this share of their weights. Ranks go where they are
      worth most: by the loss that they save, in nats, as far as ``activations`` can tell (error of
      the output times squared derivative), and else by the share of the layer's energy.

    ``activations``, from :func:`observe`, whiten the decomposition. Embeddings, the output layer,
    layers that share their weights, and biases stay as they are; low-rank layers are made smaller.

    The model then saves, loads and generates as any other. Its config names the rank of each layer
    that has changed (``module_ranks``), and a model of transformers becomes one of
    :mod:`.modeling_compressed`.

    Raises ValueError where this cannot be done; the model is then as it was.
    """
    check_choice(rank, keep, params)
    layers, model_class = check_model(model)
    left = other_layers(model, layers)
    known = activations or {}
    spectra = [_decompose(name, layer, known.get(name)) for name, layer in layers.items()]
    ranks = _choose([spectrum.options for spectrum in spectra], rank, keep, params)
    before = _count(model)
    rows = [_make_low_rank(model, *pair) for pair in zip(spectra, ranks, strict=True)]
    changed = {row.name: row.rank for row in rows if row.weights < row.weights_before}
    _write_down(model, model_class, changed)
    return Compression(rows, left, activations is not None, before, _count(model))


def observe(model: Any, windows: Tensor) -> dict[str, Activations]:
    """Run a text through the model, and see what its linear layers read and are worth.

    ``windows`` (N, T + 1) are token ids: T that are read, and T that are to be predicted. See
    :func:`.activations.run_text`.
    """
    return run_text(model, windows, linear_layers(model))


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """The layers that a lower rank makes smaller, by name, in the order of the model.

    Dense ones (nn.Linear, Conv1D) and low-rank ones, but for the output layer and all that share
    their weights with another module.
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
    """How many modules besides ``layers`` have matrices of weights of their own, by their class.

    They stay as they are: subclasses of nn.Linear, whose forward pass may do more, experts in one
    tensor, convolutions, quantised layers, layers too small or with shared weights.
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
    """The layers that can be made low-rank, and the class that the model has then.

    Raises ValueError where there are none, or where no class can be told about ranks.
    """
    layers, kind = linear_layers(model), type(model).__name__
    if not layers:
        others = other_layers(model, layers)
        listed = ", ".join(f"{count} {name}" for name, count in others.items()) or "none"
        raise ValueError(
            f"a {kind} has no linear layers that could be low-rank: nn.Linear and Conv1D can, and "
            f"not their subclasses, and its layers with matrices are: {listed}"
        )
    return layers, _class_with_ranks(model)


def check_choice(rank: int | None, keep: float | None, params: float | None) -> None:
    """Raises ValueError unless exactly one is given, and in its range."""
    if sum(value is not None for value in (rank, keep, params)) != 1:
        raise ValueError("say how far to compress by one of rank, keep and params, and only one")
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}: it must be 1 or more")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}: it is a share of the energy, over 0 and up to 1")
    if params is not None and not 0 < params < 1:
        raise ValueError(f"params is {params}: it is a share of the weights, between 0 and 1")


@dataclass(frozen=True)
class _Spectrum:
    """A layer taken apart, as far as ranks save anything (R).

    Attributes:
        left, right: (out, R) and (R, in); the first r columns and rows multiply to rank r.
        options: what the ranks cost and lose.
    """

    name: str
    layer: nn.Module
    left: Tensor
    right: Tensor
    options: Options


def _decompose(name: str, layer: nn.Module, activations: Activations | None) -> _Spectrum:
    """In float64, on the processor. Raises ValueError where a number is not finite."""
    weight = weight_of(layer).detach().cpu().double()
    if not weight.isfinite().all():
        raise ValueError(f"{name} has weights that are not finite")
    if activations is not None and not activations.gram.isfinite().all():
        raise ValueError(f"{name} reads numbers from the text that are not finite")
    root, inverse = _whitening(activations, weight.shape[1])
    left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
    energy, highest = singular.square(), _highest_rank(layer)
    # What ranks 1, 2, … lose: summed from the small end.
    lost = energy.flip(0).cumsum(0).flip(0)[1 : highest + 1] / energy.sum().clamp(min=1e-300)
    half = singular[:highest].sqrt()  # two factors of like size, which train best
    return _Spectrum(
        name,
        layer,
        (left[:, :highest] * half).float(),
        (half[:, None] * right[:highest] @ inverse).float(),
        Options(
            per_rank=sum(shape_of(layer)),
            weights=_weights(layer),
            lost=lost.numpy(),
            importance=_importance(activations, float(energy.sum())),
        ),
    )


def _whitening(activations: Activations | None, features: int) -> tuple[Tensor, Tensor]:
    """S and its inverse, (in, in), where S Sᵀ is the damped Gram matrix with mean eigenvalue 1.

    The identity without activations, and where every input was zero.
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
    """What it costs to lose the whole output: nats a token, or 1 for every layer without text.

    The second-order term of the loss by its Fisher matrix, half of error² · derivative², as if all
    outputs mattered alike and one by one: rough, but of the same unit in all layers.
    """
    if activations is None:
        return 1.0
    return activations.sensitivity * _scale(activations) * energy / 2


def _choose(
    options: list[Options], rank: int | None, keep: float | None, params: float | None
) -> list[int | None]:
    """A rank for each layer, None where it stays. Raises ValueError where all would."""
    if params is not None:
        return ranks_by_size(options, params)
    if keep is not None:
        asked, ranks = f"keep {keep}", [rank_by_energy(option, keep) for option in options]
    else:
        assert rank is not None
        asked, ranks = f"rank {rank}", [rank if rank <= o.highest_rank else None for o in options]
    if not any(ranks):
        most = max(option.highest_rank for option in options)
        raise ValueError(
            f"{asked} saves nothing in any layer: ask for less (the highest rank that saves "
            f"anything is {most})"
        )
    return ranks


@torch.no_grad()
def _make_low_rank(model: Any, spectrum: _Spectrum, rank: int | None) -> CompressedLayer:
    """Put the layer of that rank into the model (None: leave it), and say what that did."""
    old, new, error = spectrum.layer, spectrum.layer, 0.0
    if rank is not None:
        bias, weight = bias_of(old), next(old.parameters())
        new = LowRankLinear(*shape_of(old), rank, bias is not None).to(weight.device, weight.dtype)
        new.U.weight.copy_(spectrum.left[:, :rank])
        new.V.weight.copy_(spectrum.right[:rank])
        if bias is not None:
            new.U.bias.copy_(bias)
        model.set_submodule(spectrum.name, new.train(old.training))
        error = float(spectrum.options.lost[rank - 1]) ** 0.5
    return CompressedLayer(
        spectrum.name,
        *shape_of(old),
        rank=new.rank if isinstance(new, LowRankLinear) else None,
        error=error,
        weights_before=_weights(old),
        weights=_weights(new),
    )


def _class_with_ranks(model: Any) -> Any:
    """The class that builds this model as ``config.module_ranks`` says: its own, if it is ours."""
    own = type(model)
    if hasattr(type(model.config), "module_ranks"):
        return own
    base = getattr(transformers, own.__name__, None)
    low_rank = base and modeling_compressed.low_rank_class(base)
    if own not in (base, low_rank):
        raise ValueError(
            f"a {own.__name__} cannot be compressed: only the architectures of transformers and of "
            "this package can be told about ranks"
        )
    return low_rank


def _write_down(model: Any, model_class: Any, ranks: dict[str, int | None]) -> None:
    """Make the model one that saves and loads with these ranks."""
    config = model.config
    if model_class.__module__ == modeling_compressed.__name__:
        model.__class__ = model_class  # the same, but for how it is built and saved
        code = modeling_compressed.__name__.rpartition(".")[2]
        config.auto_map = {"AutoModelForCausalLM": f"{code}.{model_class.__name__}"}
        # Transformers writes some tensors under other names (GPT-NeoX's output layer), and finds
        # them again for classes of its own only.
        model._weight_conversions = []
    config.module_ranks = (getattr(config, "module_ranks", None) or {}) | ranks


def _highest_rank(layer: nn.Module) -> int:
    """The highest rank with fewer weights than the layer has now."""
    return (_weights(layer) - 1) // sum(shape_of(layer))


def _weights(layer: nn.Module) -> int:
    """How many, without the bias."""
    bias = bias_of(layer)
    return sum(p.numel() for p in layer.parameters()) - (0 if bias is None else bias.numel())


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
