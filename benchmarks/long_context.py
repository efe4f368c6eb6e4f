"""Low-rank attention against dense attention: time and memory as the text grows.

    python benchmarks/long_context.py               # one attention layer, the whole model, decoding
    python benchmarks/long_context.py --only layer

The layer is attention alone: 8 heads of 64, k=64, window=64, queries, keys and values given; for
low-rank the computation of the write weights from the keys counts too. Dense is the faster of
torch's fused attention and explicit products, which are left out beyond 4,096 tokens (their n × n
tables do not fit). The model is 4 blocks, 256 wide, with and without low-rank attention, everything
else equal. Each time is the median of several runs, low-rank and dense in turn, in one process;
peak memory is how much more than before the call the process held at most, in a process of its own.
On a processor the figures are those of its cores; with a graphics card, --device cuda.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lumenspark.data.cache_folder import cache_folder
from lumenspark.device import prepare_process
from lumenspark.models import LumensparkConfig, LumensparkForCausalLM
from lumenspark.models.attention import attention_weights
from lumenspark.models.lowrank_attention_chunk import chunk_lowrank_attention
from lumenspark.models.lowrank_attention_slots import LowRankSettings

HEADS, SIZE, SLOTS, WINDOW = 8, 64, 64, 64
VOCABULARY = 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LONGEST_EXPLICIT = 4096
LONGEST_DENSE_MODEL = 8192
LONGEST_DENSE_MEMORY = 16384  # it grows in a straight line, and each look costs a run
SECONDS_PER_CALL = 20.0

Call = Callable[[], Any]


@dataclass
class Options:
    """Time and peak memory against the length of the text."""

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
    longest_dense: int = 32768
    """Dense attention is left out beyond this."""
    runs: int = 3
    threads: int = 0
    """0: torch's own choice."""
    device: str = "cpu"
    only: Literal["layer", "model", "decoding"] | None = None
    memory_of: Annotated[str | None, tyro.conf.arg(metavar="JSON")] = None
    """Print the peak memory of one call."""


def layer_call(kind: str, dtype: str, length: int, backward: bool, device: str) -> Call:
    """One attention layer, once; ``kind`` is low-rank, fused or explicit."""
    make = {"dtype": DTYPES[dtype], "device": device}
    query, key, value = (
        torch.randn(1, HEADS, length, SIZE, **make, requires_grad=backward) for _ in range(3)
    )
    write = torch.randn(HEADS, SIZE, SLOTS, **make, requires_grad=backward)
    scaling = SIZE**-0.5

    def low_rank() -> Tensor:
        def project(key: Tensor, positions: Tensor) -> Tensor:
            return (key @ write).softmax(dim=-1)

        settings = LowRankSettings(project, WINDOW, scaling)
        return chunk_lowrank_attention(query, key, value, settings)[0]

    def fused() -> Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True)

    def explicit() -> Tensor:
        mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return attention_weights(query, key, mask, scaling) @ value

    forward = {"low-rank": low_rank, "fused": fused, "explicit": explicit}[kind]
    grad = torch.randn(1, HEADS, length, SIZE, **make)

    def call() -> None:
        output = forward()
        if backward:
            output.backward(grad)

    return call


def small_model(kind: str, length: int, device: str) -> LumensparkForCausalLM:
    """4 blocks, 256 wide, for texts of ``length``; ``kind`` is low-rank or dense."""
    torch.manual_seed(0)
    config = LumensparkConfig(
        vocab_size=VOCABULARY,
        embed_dim=256,
        depth=4,
        heads=4,
        rank=64,
        seq_length=length,
        k=SLOTS if kind == "low-rank" else None,
        window=WINDOW,
        dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LumensparkForCausalLM(config).to(device)


def model_call(kind: str, dtype: str, length: int, backward: bool, device: str) -> Call:
    """A whole model, once; ``kind`` is low-rank or dense (fused attention)."""
    model = small_model(kind, length, device).to(DTYPES[dtype])
    model.train(backward)
    ids = torch.randint(VOCABULARY, (1, length), device=device)

    def call() -> None:
        if backward:
            model(input_ids=ids, labels=ids).loss.backward()
            model.zero_grad()
        else:
            with torch.inference_mode():
                model(input_ids=ids, use_cache=False, logits_to_keep=1)

    return call


MAKERS = {"layer": layer_call, "model": model_call}


def timed(call: Call, device: str) -> float:
    """Seconds."""
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def medians(calls: dict[str, Call], runs: int, device: str) -> dict[str, float]:
    """Milliseconds of each call, in turn; the first run warms up. What takes seconds runs less."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + runs):
        for name, call in calls.items():
            if sum(times[name]) < SECONDS_PER_CALL:
                times[name].append(timed(call, device))
    return {
        name: 1000 * statistics.median(measured[1:] or measured) for name, measured in times.items()
    }


def print_table(part: str, kinds: tuple[str, ...], options: Options) -> None:
    for dtype in DTYPES:
        for backward in (False, True):
            title = f"{part}, {dtype}, forward{' + backward' if backward else ''}"
            print(
                f"\n{title}\n{'n':>7} " + " ".join(f"{kind + ' ms':>12}" for kind in kinds), end=""
            )
            print(f" {'ratio':>7} " + " ".join(f"{kind + ' MiB':>13}" for kind in kinds))
            low_rank: dict[int, float] = {}
            for length in options.lengths:
                shown = [kind for kind in kinds if length <= longest(part, kind, options)]
                calls = {
                    kind: MAKERS[part](kind, dtype, length, backward, options.device)
                    for kind in shown
                }
                times = medians(calls, options.runs, options.device)
                del calls
                memory = {
                    kind: peak_memory_of(part, kind, dtype, length, backward, options)
                    for kind in shown
                    if backward and (kind == "low-rank" or length <= LONGEST_DENSE_MEMORY)
                }
                low_rank[length] = times["low-rank"]
                dense = min((times[kind] for kind in shown[1:]), default=None)
                ratio = f"{dense / times['low-rank']:7.2f}" if dense else " " * 7
                print(f"{length:>7} " + " ".join(_cell(times, kind, 12) for kind in kinds), end="")
                print(
                    f" {ratio} " + " ".join(_cell(memory, kind, 13) for kind in kinds), flush=True
                )
            if {8192, 32768} <= low_rank.keys():
                print(f"low-rank, 32,768 over 8,192: {low_rank[32768] / low_rank[8192]:.2f} times")


def longest(part: str, kind: str, options: Options) -> int:
    if kind == "low-rank":
        return max(options.lengths)
    if kind == "explicit":
        return LONGEST_EXPLICIT
    return min(options.longest_dense, LONGEST_DENSE_MODEL if part == "model" else 10**9)


def _cell(values: dict[str, float], kind: str, width: int) -> str:
    return f"{values[kind]:{width},.1f}" if kind in values else " " * width


def peak_memory_of(
    part: str, kind: str, dtype: str, length: int, backward: bool, options: Options
) -> float:
    """MiB more than before, in a process of its own."""
    what = json.dumps([part, kind, dtype, length, backward, options.device])
    command = [sys.executable, __file__, "--memory-of", what, f"--threads={options.threads}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(what: str) -> None:
    part, kind, dtype, length, backward, device = json.loads(what)
    MAKERS[part](kind, dtype, 2 * WINDOW, backward, device)()  # what libraries need the first time
    call = MAKERS[part](kind, dtype, length, backward, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    before = _resident()
    with _PeakResident() as peak:
        call()
    print((peak.bytes - before) / 2**20)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


class _PeakResident:
    """What the process holds at most, looked at every millisecond."""

    def __enter__(self) -> "_PeakResident":
        self.bytes, self._over = _resident(), threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.bytes = max(self.bytes, _resident())

    def __exit__(self, *arguments: object) -> None:
        self._over.set()
        self._watch.join()
        self.bytes = max(self.bytes, _resident())


def print_decoding(options: Options) -> None:
    """Milliseconds for one token and bytes of state, at two positions of a long text."""
    print("\ndecoding one token, 4 blocks of 4 heads of 64, seq_length=65,536, float32, batch 1")
    print(f"{'attention':<10} {'position':>9} {'ms a token':>11} {'state, bytes':>13}")
    for kind in ("low-rank", "dense"):
        model = small_model(kind, 65536, options.device).eval()
        cache = model.model.new_cache()
        times: dict[int, list[float]] = {1000: [], 60000: []}
        with torch.inference_mode():
            for position, measured in times.items():
                _read_to(model, cache, position)
                for _ in range(200):
                    token = torch.randint(VOCABULARY, (1, 1), device=options.device)
                    step = partial(model, input_ids=token, past_key_values=cache)
                    measured.append(timed(step, options.device))
                milliseconds = 1000 * statistics.median(measured)
                print(f"{kind:<10} {position:>9,} {milliseconds:>11.2f} {_bytes(cache):>13,}")


def _read_to(model: Any, cache: Any, position: int) -> None:
    """Read tokens in pieces, until the next one's position is ``position``."""
    while cache.get_seq_length() < position:
        count = min(2048, position - cache.get_seq_length())
        ids = torch.randint(VOCABULARY, (1, count), device=model.device)
        model(input_ids=ids, past_key_values=cache, logits_to_keep=1)


def _bytes(cache: Any) -> int:
    if hasattr(cache, "nbytes"):
        return int(cache.nbytes)
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    prepare_process(options.device, options.threads or None, cache_folder())  # as for training
    if options.memory_of:
        print_memory(options.memory_of)
        return
    print(f"{Path(__file__).name}: {torch.get_num_threads()} threads, torch {torch.__version__}")
    if options.only in (None, "layer"):
        print_table("layer", ("low-rank", "fused", "explicit"), options)
    if options.only in (None, "model"):
        print_table("model", ("low-rank", "dense"), options)
    if options.only in (None, "decoding"):
        print_decoding(options)


if __name__ == "__main__":
    main()
