"""Training speed: this loop against transformers' Trainer and a bare loop, on equally large models.

    python benchmarks/train_speed.py

All train on the same windows of the embedded corpus, with the same batch, thread count and
context, one after the other, each in a process of its own, in several rounds; what is compared is
the median over rounds of tokens a second in steady state (after warm-up and compiling). The peers
are a Llama of the same width, depth, vocabulary and feed-forward size, with AdamW, in float32 and
in bfloat16, with denormal numbers flushed, and the bare loop also compiled. Ours is what
`lumenspark train lumiere-1m` runs: Muon included, which the peers do not have to compute.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

CONTEXT = 64


@dataclass
class Options:
    """Compare training speeds on this machine."""

    batch_size: int = 64
    steps: int = 40
    """Timed steps in each round, after the warm-up."""
    warm: int = 5
    rounds: int = 3
    threads: int = 0
    """0: torch's own choice."""
    only: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Run one contestant once and print its tokens a second as JSON."""


def windows(options: Options, count: int) -> torch.Tensor:
    """(count, CONTEXT + 1) token ids of the embedded corpus."""
    from lumenspark.data.corpora import open_corpus
    from lumenspark.data.tokens import prepare
    from lumenspark.data.windows import TrainingWindows

    ids = prepare(open_corpus("python-docs")).splits["train"].ids
    return torch.from_numpy(TrainingWindows(ids, CONTEXT, seed=0).batch(0, count))


def lumenspark_loop(options: Options) -> float:
    from lumenspark import pipeline
    from lumenspark.training.progress import Reporter
    from lumenspark.training.recipe import load_recipe, with_overrides

    recipe = with_overrides(
        load_recipe("lumiere-1m"),
        {"train.steps": 100_000, "train.batch_size": options.batch_size},
    )
    setup = pipeline.set_up(recipe, Reporter())
    trainer = pipeline.make_trainer(setup, Reporter())
    seconds = trainer.seconds_per_step(warm=options.warm, timed=options.steps)
    return recipe.tokens_per_step / seconds


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=128,
            intermediate_size=168,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def bare_loop(options: Options, bf16: bool = False, compiled: bool = False) -> float:
    """Forward, backward, clip, AdamW: what people write by hand."""
    model = llama().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(input_ids=ids, labels=ids).loss

    loss = torch.compile(loss_of) if compiled else loss_of
    rows = windows(options, options.batch_size * (options.warm + options.steps))
    # As many inputs as ours has: the loss shifts them, so one prediction a window is less.
    batches = rows[:, :CONTEXT].split(options.batch_size)
    times = []
    for ids in batches:
        began = time.perf_counter()
        loss(ids).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return options.batch_size * CONTEXT / statistics.median(times[options.warm :])


def trainer_loop(options: Options, bf16: bool = False) -> float:
    """transformers.Trainer with its defaults, without saving and evaluating."""
    import tempfile

    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *arguments: object, **more: object) -> None:
            self.times.append(time.perf_counter())

    count = options.batch_size * (options.warm + options.steps)
    rows = [{"input_ids": row, "labels": row} for row in windows(options, count)[:, :CONTEXT]]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1,
            use_cpu=True,
            bf16=bf16,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(llama(), arguments, train_dataset=rows, callbacks=[clock]).train()
    gaps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    return options.batch_size * CONTEXT / statistics.median(gaps[options.warm - 1 :])


CONTESTANTS: dict[str, Callable[[Options], float]] = {
    "lumenspark": lumenspark_loop,
    "bare loop, float32": bare_loop,
    "bare loop, bfloat16": lambda options: bare_loop(options, bf16=True),
    "bare loop, float32, compiled": lambda options: bare_loop(options, compiled=True),
    "bare loop, bfloat16, compiled": lambda options: bare_loop(options, bf16=True, compiled=True),
    "Trainer, float32": trainer_loop,
    "Trainer, bfloat16": lambda options: trainer_loop(options, bf16=True),
}


def run_one(name: str, options: Options) -> None:
    torch.set_flush_denormal(True)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps({"tokens_per_second": CONTESTANTS[name](options)}))


def measure(name: str, options: Options) -> float:
    """One contestant in a fresh process: tokens a second."""
    arguments = [f"--{key}={getattr(options, key)}" for key in ("steps", "warm", "threads")]
    command = [sys.executable, __file__, "--only", name, *arguments]
    command.append(f"--batch-size={options.batch_size}")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.only:
        run_one(options.only, options)
        return
    speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name, measured in speeds.items():
            measured.append(measure(name, options))
            print(f"round {number + 1}: {name:<32} {measured[-1]:>9,.0f} tokens/s", flush=True)
    ours = statistics.median(speeds["lumenspark"])
    print(f"\n{'':<32} {'median':>9} {'lowest':>9} {'highest':>9}   ours is")
    for name, measured in speeds.items():
        median = statistics.median(measured)
        print(
            f"{name:<32} {median:>9,.0f} {min(measured):>9,.0f} {max(measured):>9,.0f}"
            f"   {ours / median:.2f} times as fast"
        )


if __name__ == "__main__":
    main()
