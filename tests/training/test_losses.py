"""The training objective, for our models and for others."""

import pytest
import torch
from small_models import new_model, small_config
from torch import nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from lumenspark.training.losses import make_loss


@pytest.mark.parametrize("kind", ["lumiere", "lumenspark", "gpt2"])
def test_loss_is_the_mean_cross_entropy_of_next_tokens(kind: str) -> None:
    torch.manual_seed(0)
    model: nn.Module
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2))
    else:
        model = new_model(small_config(kind, dropout=0.0))
    model.eval()  # without dropout, and the loss still takes the path of training
    windows = torch.randint(300, (6, 9))
    logits = model(input_ids=windows[:, :-1]).logits.flatten(0, 1)
    plain = functional.cross_entropy(logits, windows[:, 1:].flatten())
    loss = make_loss(model, "cpu", bf16=False)(windows)
    torch.testing.assert_close(loss, plain)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
