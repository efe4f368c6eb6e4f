"""One contestant of `train_speed.py`, in a process of its own: prints its speed as JSON.

    python benchmarks/train_speed_peers.py litgpt --bf16 --windows windows.npy

Needs torch, numpy and the contestant's own package only, because litgpt lives in another
environment than this package. All models have the size of Lumiére-1M: width 128, four blocks of
four heads, 168 gated units, 4,096 tokens, windows of 64.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTEXT, WIDTH, LAYERS, HEADS, GATED, VOCABULARY = 64, 128, 4, 4, 168, 4096
HEAD_WIDTH = WIDTH // HEADS
LEARNING_RATE = 1e-3

Times = list[float]  # seconds, one a step; of ours the median alone
Product = tuple[Tensor, Tensor, int]  # two factors, and how often a step multiplies them


def lumenspark_loop(options: argparse.Namespace) -> Times:
    """What `lumenspark train lumiere-1m` runs; without --compiled and --bf16, plain float32."""
    from lumenspark.recipe import load_recipe, with_overrides
    from lumenspark.reporter import Reporter
    from lumenspark.training.setup import set_up
    from lumenspark.training.timing import seconds_per_step
    from lumenspark.training.trainer import Trainer

    settings = {
        "train.steps": 100_000,
        "train.batch_size": options.batch_size,
        "train.compile": "auto" if options.compiled else "off",
        "train.precision": "auto" if options.bf16 else "fp32",
    }
    recipe = with_overrides(load_recipe("lumiere-1m"), settings)
    trainer = Trainer(set_up(recipe, Reporter()), Reporter())
    return [seconds_per_step(trainer, warmup=options.warm, timed=options.steps)]


def bare_loop(options: argparse.Namespace) -> Times:
    """transformers' Llama in a loop as people write it by hand."""
    model = llama(options)
    return loop(options, model, lambda ids: model(input_ids=ids, labels=ids).loss)


def litgpt_loop(options: argparse.Namespace) -> Times:
    """litgpt's GPT class in the same loop."""
    from litgpt.model import GPT, Config  # type: ignore[import-not-found]

    if options.matmul:  # litgpt has no switch of its own, so torch's is used
        torch.backends.cuda.enable_flash_sdp(False)  # the processor's fused attention obeys it too
    torch.manual_seed(0)
    config = Config(
        block_size=CONTEXT,
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        intermediate_size=GATED,
        padded_vocab_size=VOCABULARY,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
    )
    model = GPT(config).train()
    model.lm_head.weight = model.transformer.wte.weight

    def loss(ids: Tensor) -> Tensor:
        logits = model(ids)[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    return loop(options, model, loss)


def loop(
    options: argparse.Namespace, model: nn.Module, loss_of: Callable[[Tensor], Tensor]
) -> Times:
    """Forward, backward, clip, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def loss(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            return loss_of(ids)

    step = torch.compile(loss) if options.compiled else loss
    times = []
    for ids in torch.from_numpy(rows(options)).split(options.batch_size):
        began = time.perf_counter()
        step(ids).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return times[options.warm :]


def trainer_loop(options: argparse.Namespace) -> Times:
    """transformers.Trainer on that Llama, without saving, logging and evaluating."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *arguments: object, **more: object) -> None:
            self.ends.append(time.perf_counter())

    windows = torch.from_numpy(rows(options))
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            optim="adamw_torch_fused",
            use_cpu=True,
            bf16=options.bf16,
            torch_compile=options.compiled,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        data: Any = [{"input_ids": row, "labels": row} for row in windows]
        Trainer(llama(options), arguments, train_dataset=data, callbacks=[clock]).train()
    gaps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    return gaps[options.warm - 1 :]


def llama(options: argparse.Namespace) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=GATED,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="eager" if options.matmul else "sdpa",
    )
    return LlamaForCausalLM(config).train()


def rows(options: argparse.Namespace) -> np.ndarray:
    """(steps x batch, CONTEXT) ids. Losses shift them: one prediction a window less than ours."""
    count = options.batch_size * (options.warm + options.steps)
    return np.load(options.windows)[:count, :CONTEXT]


# What the machine could do


def peaks(batch_size: int) -> dict[str, float]:
    """FLOP/s in bfloat16: of one large product, and of a training step's products by themselves."""
    from lumenspark.training.mfu import matmul_peak

    products = step_products(batch_size)
    flops = sum(times * product_flops(a, b) for a, b, times in products)
    seconds = sum(times * product_seconds(a, b) for a, b, times in products)
    return {
        "square": matmul_peak(torch.bfloat16),
        "shapes": flops / seconds,
        "flops_per_token": flops / (batch_size * CONTEXT),
    }


def step_products(batch_size: int) -> list[Product]:
    """Every matrix product of one forward and backward, laid out as training lays them out.

    All scores of the attention are counted, also those that the causal mask then hides.
    """
    tokens, pairs = batch_size * CONTEXT, batch_size * HEADS
    linear = [  # inputs, outputs, how often in the model
        (WIDTH, WIDTH, 4 * LAYERS),
        (WIDTH, GATED, 2 * LAYERS),
        (GATED, WIDTH, LAYERS),
        (WIDTH, VOCABULARY, 1),
    ]
    products: list[Product] = []
    for inputs, outputs, times in linear:
        x, y = torch.randn(tokens, inputs).bfloat16(), torch.randn(tokens, outputs).bfloat16()
        weight = torch.randn(outputs, inputs).bfloat16()
        products += [(x, weight.T, times), (y, weight, times), (y.T, x, times)]
    head = torch.randn(pairs, CONTEXT, HEAD_WIDTH).bfloat16()
    scores = torch.randn(pairs, CONTEXT, CONTEXT).bfloat16()
    products += [
        (head, head.mT, 2 * LAYERS),  # queries by keys; the output's gradient by values
        (scores, head, 2 * LAYERS),  # weights by values; the scores' gradient by keys
        (scores.mT, head, 2 * LAYERS),  # gradients of values and of keys
    ]
    return products


def product_flops(a: Tensor, b: Tensor) -> float:
    return 2 * a.numel() * b.shape[-1]


def product_seconds(a: Tensor, b: Tensor) -> float:
    """The median of as many as fit into a fifth of a second, into memory that is there already."""
    product = a @ b
    times: Times = []
    while sum(times) < 0.2:
        began = time.perf_counter()
        torch.matmul(a, b, out=product)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


LOOPS: dict[str, Callable[[argparse.Namespace], Times]] = {
    "lumenspark": lumenspark_loop,
    "bare loop": bare_loop,
    "Trainer": trainer_loop,
    "litgpt": litgpt_loop,
}


def peak_memory() -> int:
    """Bytes that this process held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=[*LOOPS, "peaks"])
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compiled", action="store_true", help="torch.compile")
    parser.add_argument("--matmul", action="store_true", help="attention in plain products")
    parser.add_argument("--windows", help="an .npy file of token ids, (count, 65)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    if options.contestant == "peaks":
        print(json.dumps(peaks(options.batch_size)))
        return
    times, tokens = LOOPS[options.contestant](options), options.batch_size * CONTEXT
    speeds = {
        "tokens_per_second": tokens / statistics.median(times),
        "by_fastest_step": tokens / min(times),
    }
    print(json.dumps(speeds | {"memory": peak_memory()}))


if __name__ == "__main__":
    main()
