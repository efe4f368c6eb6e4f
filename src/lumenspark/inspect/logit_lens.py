"""Logit lens: the model's predictions from the residual stream after each block."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lumenspark.errors import UserError
from lumenspark.inspect.architectures import architecture_of
from lumenspark.inspect.inputs import Text, token_pieces
from lumenspark.inspect.trace import Trace, in_evaluation, token_losses, trace


@dataclass(eq=False)
class LogitLens:
    """Predictions from each of R rows: the embeddings, then the output of each block.

    ``ids`` and ``probabilities`` (R, B, T, top) are the most likely next tokens; ``loss``
    (R, B, T) is in nats, as :attr:`Trace.loss`. The last row is the model's own prediction.
    """

    rows: list[str]
    ids: Tensor = field(repr=False)
    probabilities: Tensor = field(repr=False)
    loss: Tensor = field(repr=False)
    trace: Trace = field(repr=False)

    @property
    def curve(self) -> list[float]:
        """The mean loss of each row in nats."""
        return [float(row.nanmean()) for row in self.loss]

    def guesses(self, row: int = 0, top: int = 1) -> list[list[str]]:
        """For each of the R rows, the ``top``-th most likely next token at every position.

        ``row`` selects the text of the batch.
        """
        tokenizer = self.trace.tokenizer
        return [token_pieces(tokenizer, ids[row, :, top - 1].tolist()) for ids in self.ids]


@in_evaluation
def logit_lens(
    model: Any,
    text: Text,
    *,
    top: int = 5,
    tokenizer: Any = None,
    attention_mask: Tensor | None = None,
) -> LogitLens:
    """Apply the final norm and the output layer to the residual stream after each block.

    (nostalgebraist 2020, "interpreting GPT: the logit lens".) ``text`` and the arguments after it
    are those of :func:`trace`; the model runs in evaluation mode. Raises UserError if ``top``
    exceeds the vocabulary.
    """
    architecture = architecture_of(model)
    if not 1 <= top <= architecture.sizes.vocabulary:
        raise UserError(f"top is {top}: choose from 1 to {architecture.sizes.vocabulary}")
    found = trace(
        model,
        text,
        ["embed", "blocks.*.residual"],
        tokenizer=tokenizer,
        attention_mask=attention_mask,
    )
    ids, probabilities, losses = [], [], []
    for stream in found.tensors.values():
        logits = architecture.head(architecture.final_norm(stream))
        likeliest = logits.float().softmax(-1).topk(top)
        ids.append(likeliest.indices)
        probabilities.append(likeliest.values)
        losses.append(token_losses(logits, found.ids, found.mask))
    return LogitLens(
        rows=list(found.tensors),
        ids=torch.stack(ids),
        probabilities=torch.stack(probabilities),
        loss=torch.stack(losses),
        trace=found,
    )
