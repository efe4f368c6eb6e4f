"""One forward pass, looked into: tokens, losses, logits, and every inner tensor that is named."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import inspect_names
from lumenspark.inspect.hooks import tensor_hooks
from lumenspark.inspect.inputs import Inputs, Text, read_inputs, text_pieces
from lumenspark.inspect.model_hooks import HookFunction
from lumenspark.inspect.selection import matching

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Result = TypeVar("Result")


@dataclass(eq=False)
class Trace:
    """What a model did with B rows of T tokens.

    ``logits`` (B, T, V) are bit for bit those of the model by itself. ``tensors`` holds what was
    asked for, by name, and ``gradients`` d loss / d tensor where they were asked for;
    ``trace[name]`` is ``trace.tensors[name]``. Shapes are those of :func:`inspect_names`.
    """

    model: Any = field(repr=False)
    ids: Tensor
    mask: Tensor | None  # (B, T) boolean, False at pads; None where there are none
    logits: Tensor = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)
    gradients: dict[str, Tensor] = field(repr=False)
    tokenizer: Any = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            found = matching([name], inspect_names(self.model))
            if found != [name]:
                raise UserError(
                    f"{name} stands for {len(found)} tensors: give the whole name of one"
                ) from None
            raise UserError(
                f"{name} was not asked for: trace(model, text, names=[{name!r}])"
            ) from None

    @cached_property
    def tokens(self) -> list[list[str]]:
        """Each row's tokens as text, which joined are the text; ids where there is no tokenizer."""
        return [text_pieces(self.tokenizer, row) for row in self.ids.tolist()]

    @cached_property
    def loss(self) -> Tensor:
        """(B, T) nats: how surprising each token was; NaN for a row's first one and for pads."""
        with torch.no_grad():
            return token_losses(self.logits, self.ids, self.mask)

    @property
    def mean_loss(self) -> float:
        """Nats for each token that was predicted. NaN where none was."""
        return float(self.loss.nanmean())

    def plot_attention(self, layer: int, head: int, row: int = 0) -> "Figure":
        """The attention pattern of one head as a figure of matplotlib.

        Raises UserError where that pattern was not asked for.
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
    """Run ``model`` once over ``text`` and keep the tensors that ``names`` ask for.

    ``text`` is a string, a list of strings (padded on the left), or token ids (T,) or (B, T) with
    ``attention_mask`` where there are pads. ``names`` as in :func:`inspect_names`, ``*`` matching
    anything: ``["blocks.*.attention.pattern"]``. The tokenizer beside the weights is taken unless
    another is given. ``gradients=True`` gives d loss / d tensor for each name, where the loss is
    the mean over all tokens that were predicted.

    Attention weights are computed beside the fast attention, for the layers that are asked for.
    The model is run in the mode that it is in; in training, what a sublayer adds is shown before
    dropout. Not for two threads at once on one model.

    Raises UserError for names that are not there, text without tokens, ids past the context, and
    models of other families.
    """
    wanted = matching(names, inspect_names(model))
    if gradients and torch.is_inference_mode_enabled():
        raise UserError("there are no gradients inside torch.inference_mode(): trace outside of it")
    if gradients and model.training and getattr(model, "is_gradient_checkpointing", False):
        raise UserError(
            "gradient checkpointing runs the model twice: trace in evaluation mode (model.eval())"
        )
    inputs = read_inputs(model, text, tokenizer, attention_mask)
    kept: dict[str, Tensor] = {}
    probes: dict[str, Tensor] | None = {} if gradients else None
    functions = {name: _keep(name, kept) for name in wanted}
    with torch.set_grad_enabled(gradients), tensor_hooks(model, functions, probes):
        logits = model(**inputs.arguments()).logits
    return Trace(
        model=model,
        ids=inputs.ids,
        mask=inputs.mask,
        logits=logits.detach(),
        tensors=kept,
        gradients=_gradients(logits, inputs, probes) if probes is not None else {},
        tokenizer=inputs.tokenizer,
    )


def in_evaluation(function: Callable[..., Result]) -> Callable[..., Result]:
    """``function(model, …)`` with the model in evaluation mode meanwhile, and without gradients.

    With dropout parts would not sum to the whole, and twice the same would not give the same.
    """

    @wraps(function)
    def evaluating(model: Any, *args: Any, **kwargs: Any) -> Result:
        if not hasattr(model, "eval"):
            return function(model, *args, **kwargs)  # which says what is wrong with it
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
    """-ln p of each token (B, T) given those before it, in float32; NaN where none is before it."""
    predicted = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)
    losses = functional.pad(predicted, (1, 0), value=torch.nan)
    if mask is None:
        return losses
    before = functional.pad(mask[:, :-1], (1, 0), value=False)
    return losses.masked_fill(~(mask & before), torch.nan)


def _keep(name: str, kept: dict[str, Tensor]) -> HookFunction:
    def look(tensor: Tensor, mask: Tensor | None) -> None:
        kept[name] = tensor.detach()

    return look


def _gradients(logits: Tensor, inputs: Inputs, probes: dict[str, Tensor]) -> dict[str, Tensor]:
    """d mean loss / d tensor for each name; zeros where the loss does not depend on it."""
    if not probes:
        return {}
    with torch.enable_grad():
        loss = token_losses(logits, inputs.ids, inputs.mask).nanmean()
    gradients = torch.autograd.grad(loss, list(probes.values()), materialize_grads=True)
    return dict(zip(probes, gradients, strict=True))
