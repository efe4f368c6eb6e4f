"""A fact from the first tokens, asked for thousands of tokens later: who still knows it?

    python benchmarks/long_memory.py

One of 64 facts stands somewhere among the first 16 tokens. Random fillers follow, and at the end a
question mark, after which the fact is to be named. Two blocks with windows of 32 reach back less
than 130 tokens, so that without slots the fact cannot arrive. Each model trains on fresh sequences
until it answers 99% of 512 others, or to the last step. Chance is 1/64.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn.functional import cross_entropy

from lumenspark.models import LumensparkConfig, LumensparkForCausalLM

FACTS, FILLERS, FIRST_TOKENS, EVALUATED = 64, 64, 16, 512
QUESTION = FACTS + FILLERS
CONTESTANTS: dict[str, dict[str, Any]] = {
    "dense": {"k": None},
    "low-rank, content": {"k": 16, "projection": "content"},
    "low-rank, position": {"k": 16, "projection": "position"},
    "window alone": {"k": 0},
}


@dataclass
class Options:
    """Train four small models to remember, and count what they know."""

    length: int = 2048
    """Tokens from the first to the question."""
    steps: int = 1500
    batch_size: int = 8
    lr: float = 0.003
    seed: int = 0
    threads: int = 0
    """0: torch's own choice."""
    contestants: tuple[str, ...] = tuple(CONTESTANTS)


def sequences(count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token ids (count, length), which end with the question, and the answers (count,)."""
    ids = torch.randint(FACTS, FACTS + FILLERS, (count, length), generator=generator)
    facts = torch.randint(FACTS, (count,), generator=generator)
    ids[torch.arange(count), torch.randint(FIRST_TOKENS, (count,), generator=generator)] = facts
    ids[:, -1] = QUESTION
    return ids, facts


def answers(model: LumensparkForCausalLM, ids: Tensor) -> Tensor:
    """The logits after the question, (B, V)."""
    logits: Tensor = model(input_ids=ids, logits_to_keep=1, use_cache=False).logits
    return logits[:, -1]


@torch.inference_mode()
def accuracy(model: LumensparkForCausalLM, options: Options) -> float:
    generator = torch.Generator().manual_seed(options.seed + 10**6)
    ids, wanted = sequences(EVALUATED, options.length, generator)
    model.eval()
    right = [
        (answers(model, part).argmax(-1) == target).float()
        for part, target in zip(ids.split(8), wanted.split(8), strict=True)
    ]
    model.train()
    return float(torch.cat(right).mean())


def train(name: str, options: Options) -> tuple[float, int, float]:
    """Accuracy, steps and seconds."""
    torch.manual_seed(options.seed)
    config = LumensparkConfig(
        vocab_size=FACTS + FILLERS + 1,
        embed_dim=64,
        depth=2,
        heads=2,
        rank=None,
        window=32,
        seq_length=options.length,
        layer_scale=1.0,
        dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **CONTESTANTS[name],
    )
    model = LumensparkForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(options.seed)
    began, known = time.monotonic(), 0.0
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, step / 50)
        ids, wanted = sequences(options.batch_size, options.length, generator)
        loss = cross_entropy(answers(model, ids), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == options.steps:
            known = accuracy(model, options)
            print(f"  {name}: step {step}, loss {loss.item():.3f}, {known:.1%}", flush=True)
            if known >= 0.99:
                break
    return known, step, time.monotonic() - began


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_flush_denormal(True)
    if options.threads:
        torch.set_num_threads(options.threads)
    results = {name: train(name, options) for name in options.contestants}
    print(f"\nasked for {options.length} tokens later; chance {1 / FACTS:.1%}")
    print(f"{'attention':<20} {'accuracy':>9} {'steps':>7} {'seconds':>8}")
    for name, (known, steps, seconds) in results.items():
        print(f"{name:<20} {known:>9.1%} {steps:>7} {seconds:>8.0f}")


if __name__ == "__main__":
    main()
