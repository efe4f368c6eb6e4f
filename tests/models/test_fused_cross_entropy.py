"""The fused loss against its definition, and ``forward`` with labels against plain torch."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Model, both_families, new_model, small_config
from torch import Tensor, distributed
from torch.nn import functional

from lumenspark.models.fused_cross_entropy import (
    cross_entropy,
    fused_linear_cross_entropy,
)

ROWS, WIDTH, VOCABULARY = 30, 16, 40


def tensors(targets: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, output weights, target tokens and their weights, in float64."""
    torch.manual_seed(3)
    hidden = scale * torch.randn(ROWS, WIDTH, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64)
    tokens = torch.randint(VOCABULARY, (ROWS, targets))
    shares = torch.rand(targets, dtype=torch.float64)
    return hidden.requires_grad_(), weight.requires_grad_(), tokens, shares / shares.sum()


def trained_model(family: str) -> Model:
    torch.manual_seed(0)
    return new_model(small_config(family, dropout=0.0, initializer_range=0.5)).train()


def assert_same_gradients(model: Any, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ours = torch.autograd.grad(found, parameters, allow_unused=True, retain_graph=True)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True, retain_graph=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_soft_targets_are_means_of_cross_entropies() -> None:
    hidden, weight, tokens, weights = tensors(5)
    logits = hidden @ weight.T
    plain = sum(
        share * functional.cross_entropy(logits, column, reduction="none")
        for share, column in zip(weights, tokens.T, strict=True)
    )
    torch.testing.assert_close(cross_entropy(logits, tokens, weights), plain)


@pytest.mark.parametrize("targets", [1, 2, 13])  # of 40 tokens: some are drawn twice
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])  # logits up to a thousand
def test_fused_form_is_the_definition(targets: int, scale: float) -> None:
    hidden, weight, tokens, weights = tensors(targets, scale)
    plain = cross_entropy(hidden @ weight.T, tokens, weights)
    fused = fused_linear_cross_entropy(hidden, weight, tokens, weights)
    torch.testing.assert_close(fused, plain)
    grad_losses = torch.randn(ROWS, dtype=torch.float64)  # each prediction has its own
    for ours, theirs in zip(
        torch.autograd.grad(fused, (hidden, weight), grad_losses),
        torch.autograd.grad(plain, (hidden, weight), grad_losses),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(fused_linear_cross_entropy, tensors(3))


def test_in_bfloat16_it_is_as_near_as_the_definition() -> None:
    hidden, weight, tokens, weights = tensors(4, scale=3.0)
    exact = cross_entropy(hidden @ weight.T, tokens, weights).mean()
    right = torch.autograd.grad(exact, (hidden, weight))
    short = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    logits = (short[0] @ short[1].T).float()
    plain = torch.autograd.grad(cross_entropy(logits, tokens, weights.float()).mean(), short)
    fused = fused_linear_cross_entropy(*short, tokens, weights.float()).mean()
    for ours, theirs, best in zip(torch.autograd.grad(fused, short), plain, right, strict=True):
        assert (ours - best).norm() < 1.5 * (theirs - best).norm()


@both_families
@pytest.mark.parametrize("samples", [None, 5])
def test_loss_of_shifted_labels_and_teacher_samples(family: str, samples: int | None) -> None:
    model = trained_model(family)
    windows = torch.randint(300, (6, 9))
    taught = None if samples is None else torch.randint(300, (6, 8, samples))
    logits = model(input_ids=windows[:, :-1]).logits.flatten(0, 1)
    plain = functional.cross_entropy(logits, windows[:, 1:].flatten())
    if taught is not None:
        plain = 0.3 * plain
        for column in taught.flatten(0, 1).T:
            plain = plain + 0.7 / 5 * functional.cross_entropy(logits, column)
    outputs = model(
        input_ids=windows[:, :-1],
        targets=windows[:, 1:],
        teacher_samples=taught,
        teacher_weight=0.7,
    )
    assert outputs.logits is None
    assert_same_gradients(model, outputs.loss, plain)


@both_families
@pytest.mark.parametrize("ignored", [0, 7])
def test_labels_are_shifted_and_those_of_minus_100_left_out(family: str, ignored: int) -> None:
    model = trained_model(family)
    ids = torch.randint(300, (3, 10))
    labels = ids.clone()
    labels.flatten()[torch.randperm(30)[:ignored]] = -100
    logits = model(input_ids=ids).logits
    plain = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_same_gradients(model, model(input_ids=ids, labels=labels).loss, plain)
    whole = model(input_ids=ids, labels=labels, skip_logits=False)
    torch.testing.assert_close(whole.logits, logits)
    assert_same_gradients(model, whole.loss, plain)


def test_evaluation_returns_logits_beside_the_loss() -> None:
    model = trained_model("lumiere").eval()
    ids = torch.randint(300, (3, 10))
    outputs = model(input_ids=ids, labels=ids, logits_to_keep=2)
    assert outputs.logits.shape == (3, 2, 300)
    torch.testing.assert_close(outputs.loss, model.train()(input_ids=ids, labels=ids).loss)


def test_labels_that_are_no_ids_are_an_error() -> None:
    model = trained_model("lumiere")
    ids = torch.randint(300, (2, 6))
    for wrong in (-1, 300):
        with pytest.raises((IndexError, RuntimeError), match=r"out of bounds|index"):
            model(input_ids=ids, labels=ids.index_fill(1, torch.tensor([3]), wrong))


def test_shift_labels_and_ignore_index_as_transformers_has_them() -> None:
    model = trained_model("lumiere")
    ids = torch.randint(1, 300, (2, 6))
    other = ids.roll(-2, 1)
    other[:, 4] = 0
    logits = model(input_ids=ids).logits.flatten(0, 1)
    plain = functional.cross_entropy(logits, other.flatten(), ignore_index=0)
    found = model(input_ids=ids, labels=ids, shift_labels=other, ignore_index=0).loss
    assert_same_gradients(model, found, plain)


def test_second_derivatives_are_refused_since_they_would_be_wrong() -> None:
    hidden, weight, tokens, weights = tensors(2)
    loss = fused_linear_cross_entropy(hidden, weight, tokens, weights).mean()
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(gradient.square().sum(), weight)


def test_num_items_in_batch_divides_the_sum() -> None:
    model = trained_model("lumiere")
    ids = torch.randint(300, (4, 10))
    whole = model(input_ids=ids, labels=ids).loss
    items = torch.tensor(4 * 9)
    parts = sum(
        model(input_ids=part, labels=part, num_items_in_batch=items).loss for part in ids.split(1)
    )
    assert_same_gradients(model, parts, whole)


def test_output_layer_with_a_bias_or_a_hook_is_called() -> None:
    windows = torch.randint(300, (6, 9))
    model = trained_model("lumiere")
    seen: list[Tensor] = []
    handle = model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out))
    model(input_ids=windows, labels=windows)
    handle.remove()
    called: list[object] = []
    handle = model.lm_head.register_full_backward_hook(lambda *given: called.append(given))
    model(input_ids=windows, labels=windows).loss.backward()
    handle.remove()
    assert called
    assert seen[0].shape == (6, 9, 300)
    model.lm_head.bias = torch.nn.Parameter(torch.randn(300))
    logits = model(input_ids=windows).logits[:, :-1].flatten(0, 1)
    plain = functional.cross_entropy(logits, windows[:, 1:].flatten())
    assert_same_gradients(model, model(input_ids=windows, labels=windows).loss, plain)


def test_autocast_decides_the_dtype_of_the_products() -> None:
    model = trained_model("lumiere")
    ids = torch.randint(300, (4, 10))
    exact = model(input_ids=ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        short = model(input_ids=ids, labels=ids).loss
    assert short.dtype == torch.float32
    assert 0 < abs(float(short - exact)) < 0.05
    short.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


def test_in_float16_a_large_vocabulary_has_finite_gradients() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(4, 8).half().requires_grad_()
    weight = (0.01 * torch.randn(70_000, 8)).half().requires_grad_()  # over float16's largest
    loss = fused_linear_cross_entropy(hidden, weight, torch.tensor([[1]] * 4), torch.ones(1)).mean()
    for gradient in torch.autograd.grad(loss, (hidden, weight)):
        assert gradient.isfinite().all()


@both_families
def test_compiled_model_has_the_same_loss(family: str) -> None:
    model = trained_model(family)
    ids = torch.randint(300, (4, 10))
    compiled = torch.compile(model, backend="eager")
    assert_same_gradients(
        model, compiled(input_ids=ids, labels=ids).loss, model(input_ids=ids, labels=ids).loss
    )


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(str(Path(folder) / "store"), 1)
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        distributed.destroy_process_group()


@both_families
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_wrapping_the_model_wraps_the_loss(family: str, wrapper: str, one_process: None) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    ids = torch.randint(300, (4, 10))
    plain = trained_model(family)
    plain(input_ids=ids, labels=ids).loss.backward()
    model = trained_model(family)
    if wrapper == "ddp":
        wrapped: Any = DistributedDataParallel(model)
    else:
        for block in model.model.layers:
            fully_shard(block)
        wrapped = fully_shard(model)
    loss = wrapped(input_ids=ids, labels=ids).loss
    loss.backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        gradient = one.grad.full_tensor() if wrapper == "fsdp2" else one.grad
        torch.testing.assert_close(gradient, other.grad)
