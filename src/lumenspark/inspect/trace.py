"""Tracing a forward pass: tokens, losses, logits, and inner tensors by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from lumenspark.errors import UserError
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.inputs import Inputs, Text, read_inputs, text_pieces
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import NamedTensors, select_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")


@dataclass(eq=False)
class Trace:
    """A forward pass over B rows of T tokens.

    ``logits`` (B, T, V) are bitwise equal to an untraced pass. ``tensors`` holds the requested
    tensors by name, ``gradients`` d loss / d tensor if requested; ``trace[name]`` is
    ``trace.tensors[name]``. Shapes are those of :func:`inspect_names`. TransformerLens' names
    find tensors and gradients too (docs/looking-inside.md lists them).
    """

    model: Any = field(repr=False)
    ids: Tensor
    mask: Tensor | None  # (B, T) boolean, False at padding; None without padding
    logits: Tensor = field(repr=False)
    tensors: NamedTensors = field(repr=False)
    gradients: NamedTensors = field(repr=False)
    tokenizer: Any = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """Each row's tokens as strings that join to its text; ids if there is no tokenizer."""
        return [text_pieces(self.tokenizer, row) for row in self.ids.tolist()]

    @cached_property
    def loss(self) -> Tensor:
        """(B, T): each token's loss in nats; NaN for a row's first token and for padding."""
        with torch.no_grad():
            return token_losses(self.logits, self.ids, self.mask)

    @property
    def mean_loss(self) -> float:
        """The mean loss in nats per predicted token; NaN if there are none."""
        return float(self.loss.nanmean())

    def plot_attention(self, layer: int, head: int, row: int = 0) -> "Figure":
        """The attention pattern of one head as a matplotlib figure.

        Raises UserError if that pattern was not requested.
        """
        from lumenspark.inspect.plots import plot_attention

        return plot_attention(self, layer, head, row)


def trace(
    model: Any,
    text: Text,
    names: Iterable[str] = (),
    *,
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
    gradients: bool = False,
) -> Trace:
    """Run ``model`` once over ``text`` and keep the tensors in ``names``.

    ``text`` is a string, a list of strings (padded on the left), or token ids (T,) or (B, T) with
    ``attention_mask`` if they are padded. ``names`` are those of :func:`inspect_names` or
    TransformerLens'; ``*`` matches anything: ``["blocks.*.attention.pattern"]``. ``tokenizer``
    defaults to the one saved with the weights. ``gradients=True`` adds d loss / d tensor for each
    name; the loss is the mean over all predicted tokens.

    Attention weights are computed next to the fast attention kernel, for requested layers only.
    The model runs in its current mode; in training mode, sublayer outputs are those before
    dropout. Not thread-safe: one trace of a model at a time.

    Raises UserError for unknown names, text without tokens, text longer than the context, and
    unsupported architectures.
    """
    wanted = select_names(model, names)
    if gradients and torch.is_inference_mode_enabled():
        raise UserError("there are no gradients inside torch.inference_mode(): trace outside of it")
    if gradients and model.training and getattr(model, "is_gradient_checkpointing", False):
        raise UserError(
            "gradient checkpointing runs the model twice: trace in evaluation mode (model.eval())"
        )
    inputs = read_inputs(model, text, tokenizer, attention_mask)
    tensors = NamedTensors(model)
    probes: dict[str, Tensor] | None = {} if gradients else None
    functions = {name: _keep(name, tensors) for name in wanted}
    with torch.set_grad_enabled(gradients), tensor_hooks(model, functions, probes):
        logits = model(**inputs.arguments()).logits
    gradient_of = NamedTensors(model)
    if probes is not None:
        gradient_of.update(_gradients(logits, inputs, probes))
    return Trace(
        model=model,
        ids=inputs.ids,
        mask=inputs.mask,
        logits=logits.detach(),
        tensors=tensors,
        gradients=gradient_of,
        tokenizer=inputs.tokenizer,
    )


def in_evaluation(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run ``function(model, …)`` in evaluation mode without gradients, then restore the mode.

    With dropout, parts would not sum to the whole and results would not be reproducible.
    """

    @wraps(function)
    def evaluating(model: Any, *args: Any, **kwargs: Any) -> Result:
        if not hasattr(model, "eval"):
            return function(model, *args, **kwargs)  # which raises the error for it
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad():
                return function(model, *args, **kwargs)
        finally:
            for module in training:
                module.training = True

    return evaluating


def token_losses(logits: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """-ln p (B, T) of each token given the previous ones, in float32; NaN if there are none."""
    predicted = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)
    losses = functional.pad(predicted, (1, 0), value=torch.nan)
    if mask is None:
        return losses
    before = functional.pad(mask[:, :-1], (1, 0), value=False)
    return losses.masked_fill(~(mask & before), torch.nan)


def _keep(name: str, tensors: dict[str, Tensor]) -> HookFunction:
    def keep(tensor: Tensor, mask: Tensor | None) -> None:
        tensors[name] = tensor.detach()

    return keep


def _gradients(logits: Tensor, inputs: Inputs, probes: dict[str, Tensor]) -> dict[str, Tensor]:
    """d mean loss / d tensor for each name; zeros if the loss does not depend on it."""
    if not probes:
        return {}
    with torch.enable_grad():
        loss = token_losses(logits, inputs.ids, inputs.mask).nanmean()
    gradients = torch.autograd.grad(loss, list(probes.values()), materialize_grads=True)
    return dict(zip(probes, gradients, strict=True))
