"""Training speed: ours against transformers' Trainer, a bare transformers loop and litgpt.

    python -m venv litgpt-venv
    litgpt-venv/bin/pip install litgpt==0.5.13 torch==2.13.0
    python benchmarks/train_speed.py --litgpt-python litgpt-venv/bin/python

(litgpt wants an older huggingface_hub than this package, hence its own environment; where torch is
a build without CUDA here, give pip the same one. Without the option litgpt is left out.)

All train models of the same size on the same windows of the embedded corpus, with the same batch,
context and number of threads, each in a process of its own. Compared is steady state, after warm-up
and compiling: tokens a second by the median step, of which the median over rounds. Everybody
flushes denormal numbers. Ours is what `lumenspark train lumiere-1m` runs, Muon included, and the
same loop in eager float32 with its other settings of the process unchanged; the peers have fused
AdamW, which is less work.

A first pass finds each peer's best settings, for each number of threads anew: float32 or autocast
to bfloat16, each with torch's fused attention or plain matrix products, with freed memory kept
(glibc's mallopt, as ours has it); then the faster precision compiled, with either attention; then
the fastest of all without memory kept. The fastest, by its fastest step, and the plainest go into
the rounds, which begin with another contestant each.

"of peak" is what the matrix products of the model's definition (forward and backward, attention
over the whole square, no optimizer) reach of the bfloat16 speed measured in the same rounds: of
2048 x 2048 matrices, and of those same products one by one, into memory that is there already.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

PEERS_SCRIPT = Path(__file__).with_name("train_speed_peers.py")
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


@dataclass
class Options:
    """Compare training speeds on this machine."""

    threads: list[int] = field(default_factory=lambda: [2, 1])
    """Numbers of threads, one after the other."""
    batch_size: int = 64
    steps: int = 12
    """Timed steps of each contestant in each round."""
    warm: int = 3
    """Steps before them."""
    rounds: int = 3
    first_steps: int = 3
    """Timed steps in the first pass."""
    litgpt_python: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The interpreter of an environment that has litgpt."""
    only: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Run one contestant once, named as in the tables, and print JSON."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write all figures there."""


@dataclass(frozen=True)
class Contestant:
    """Who trains, and with what."""

    loop: str
    bf16: bool = False
    compiled: bool = False
    matmul: bool = False
    """Attention as plain matrix products, in place of torch's fused one."""
    keep_memory: bool = False

    @property
    def name(self) -> str:
        if self.loop == "lumenspark":
            return "lumenspark" if self.compiled else "lumenspark, eager float32"
        switches = {
            "compiled": self.compiled,
            "plain attention": self.matmul,
            "memory kept": self.keep_memory,
        }
        precision = "bfloat16" if self.bf16 else "float32"
        return ", ".join([self.loop, precision, *(word for word, on in switches.items() if on)])


OURS = Contestant("lumenspark", bf16=True, compiled=True)
OURS_EAGER = Contestant("lumenspark")
PEERS = ("bare loop", "Trainer", "litgpt")
ON_OFF = (False, True)


@dataclass(frozen=True)
class Result:
    """One process, one contestant."""

    tokens_per_second: float  # by the median step
    by_fastest_step: float  # tokens a second, too
    memory: int  # bytes that the process held at most


class Bench:
    """Runs contestants, each in a process of its own, on the windows in ``folder``."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.windows = folder / "windows.npy"
        steps = options.warm + max(options.steps, options.first_steps)
        write_windows(self.windows, options.batch_size * steps)
        self.has_litgpt = has_litgpt(options.litgpt_python)

    def measure(self, contestant: Contestant, threads: int, steps: int) -> Result:
        settings = {
            "windows": self.windows,
            "batch-size": self.options.batch_size,
            "warm": self.options.warm,
            "steps": steps,
        }
        switches = ("bf16", "compiled", "matmul")
        arguments = [
            *(f"--{switch}" for switch in switches if getattr(contestant, switch)),
            *(f"--{key}={value}" for key, value in settings.items()),
        ]
        memory = KEEP_MEMORY if contestant.keep_memory else {}
        return Result(**self.run(contestant.loop, arguments, threads, memory))

    def peaks(self, threads: int) -> dict[str, float]:
        return self.run("peaks", [f"--batch-size={self.options.batch_size}"], threads, {})

    def run(
        self, name: str, arguments: list[str], threads: int, variables: dict[str, str]
    ) -> dict[str, Any]:
        python = self.options.litgpt_python if name == "litgpt" else sys.executable
        done = subprocess.run(
            [str(python), str(PEERS_SCRIPT), name, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | variables,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def has_litgpt(python: Path | None) -> bool:
    """Whether there is an interpreter with litgpt; where not, a sentence says so."""
    if python is None:
        sentence = "litgpt is left out: --litgpt-python PATH names the interpreter that has it"
        print(sentence, file=sys.stderr)
        return False
    command = [str(python), "-c", "import litgpt"]
    if not python.exists() or subprocess.run(command, capture_output=True).returncode:
        sys.exit(f"{python} is no interpreter that has litgpt: see --help for how to make one")
    return True


def write_windows(path: Path, count: int) -> None:
    """(count, 65) token ids of the embedded corpus.

    Torch must stay out of this process: some systems count the memory of the one that starts
    another into what the other held at most.
    """
    import numpy as np

    from lumenspark.data.corpora import open_corpus
    from lumenspark.data.tokens import prepare
    from lumenspark.data.windows import TrainingWindows

    ids = prepare(open_corpus("python-docs")).splits["train"].ids
    np.save(path, TrainingWindows(ids, context=64, seed=0).batch(0, count))


def first_pass(bench: Bench, peer: str, threads: int) -> dict[Contestant, Result]:
    """All that is tried to find the peer's best; one that fails is said to, and left out."""
    tried: dict[Contestant, Result] = {}

    def attempt(contestants: list[Contestant]) -> Contestant:
        for contestant in contestants:
            try:
                result = bench.measure(contestant, threads, bench.options.first_steps)
            except RuntimeError as error:
                print(f"  {contestant.name:<60} failed: {error}", flush=True)
            else:
                tried[contestant] = result
                print(f"  {contestant.name:<60} {speed(result)}", flush=True)
        if not tried:
            sys.exit(f"{peer} fails here with all settings")
        return fastest(tried)

    plain = Contestant(peer, keep_memory=True)
    eager = attempt([replace(plain, bf16=b, matmul=m) for b in ON_OFF for m in ON_OFF])
    best = attempt([replace(eager, compiled=True, matmul=m) for m in ON_OFF])
    attempt([replace(best, keep_memory=False)])
    return tried


def fastest(tried: dict[Contestant, Result]) -> Contestant:
    """By the fastest step: other work on the machine can disturb a single measurement."""
    return max(tried, key=lambda contestant: tried[contestant].by_fastest_step)


def speed(result: Result) -> str:
    return (
        f"{result.tokens_per_second:>7,.0f} tokens/s (fastest step {result.by_fastest_step:>7,.0f})"
        f" {result.memory / 1e6:>6,.0f} MB"
    )


def compare(bench: Bench, threads: int) -> dict[str, Any]:
    """First pass, rounds and table for one number of threads. Returns the figures."""
    options = bench.options
    peers = [peer for peer in PEERS if peer != "litgpt" or bench.has_litgpt]
    print(f"\n{threads} thread(s), first pass: each peer's best settings", flush=True)
    tried = {peer: first_pass(bench, peer, threads) for peer in peers}
    contestants = [OURS, OURS_EAGER]
    for peer in peers:
        contestants += [fastest(tried[peer]), Contestant(peer)]
    contestants = list(dict.fromkeys(contestants))  # a peer's plainest may be its fastest

    results: dict[Contestant, list[Result]] = {contestant: [] for contestant in contestants}
    peaks = []
    for number in range(options.rounds):
        print(f"{threads} thread(s), round {number + 1}", flush=True)
        first = number * len(contestants) // options.rounds
        for contestant in contestants[first:] + contestants[:first]:
            result = bench.measure(contestant, threads, options.steps)
            results[contestant].append(result)
            print(f"  {contestant.name:<60} {speed(result)}", flush=True)
        peaks.append(bench.peaks(threads))
    peak = {key: statistics.median(each[key] for each in peaks) for key in peaks[0]}
    table = [row(contestant, results, peak) for contestant in contestants]
    print_table(threads, table, peak)
    return {
        "first_pass": figures({c: [r] for each in tried.values() for c, r in each.items()}),
        "rounds": figures(results),
        "peaks": peaks,
        "table": table,
    }


def row(
    contestant: Contestant, results: dict[Contestant, list[Result]], peak: dict[str, float]
) -> dict[str, Any]:
    """A contestant's line of the table."""
    speeds = [result.tokens_per_second for result in results[contestant]]
    ours = statistics.median(result.tokens_per_second for result in results[OURS])
    median = statistics.median(speeds)
    return {
        "contestant": contestant.name,
        "tokens_per_second": median,
        "lowest": min(speeds),
        "highest": max(speeds),
        "ours_is_times_as_fast": ours / median,
        "memory": statistics.median(result.memory for result in results[contestant]),
        "share_of_square_peak": median * peak["flops_per_token"] / peak["square"],
        "share_of_shapes_peak": median * peak["flops_per_token"] / peak["shapes"],
    }


def figures(results: dict[Contestant, list[Result]]) -> list[dict[str, Any]]:
    return [
        {"contestant": contestant.name, **asdict(contestant), "results": list(map(asdict, each))}
        for contestant, each in results.items()
    ]


def print_table(threads: int, table: list[dict[str, Any]], peak: dict[str, float]) -> None:
    """Tokens a second, how much faster ours is, memory, shares of the two peaks."""
    print(f"\n{threads} thread(s): tokens a second, median of the rounds")
    print(
        f"{'':<60} {'median':>8} {'lowest':>8} {'highest':>8} {'ours is':>8} {'memory':>9}"
        f" {'of peak':>8} {'at these shapes':>16}"
    )
    for line in table:
        print(
            f"{line['contestant']:<60} {line['tokens_per_second']:>8,.0f} {line['lowest']:>8,.0f}"
            f" {line['highest']:>8,.0f} {line['ours_is_times_as_fast']:>7.2f}x"
            f" {line['memory'] / 1e6:>6,.0f} MB {line['share_of_square_peak']:>8.0%}"
            f" {line['share_of_shapes_peak']:>16.0%}"
        )
    print(
        f"bfloat16 peak: {peak['square'] / 1e9:,.0f} GFLOP/s in products of 2048, "
        f"{peak['shapes'] / 1e9:,.0f} at a step's shapes ({peak['flops_per_token'] / 1e6:.2f} "
        f"MFLOP a token, so at most {peak['shapes'] / peak['flops_per_token']:,.0f} tokens/s)",
        flush=True,
    )


def machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [line for line in information.read_text().splitlines() if "model name" in line]
        cpu = models[0].partition(": ")[2] if models else cpu
    packages = {name: version(name) for name in ("torch", "transformers", "lumenspark")}
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def run_only(bench: Bench, name: str) -> None:
    """One contestant by its name, with the first number of threads."""
    everybody = [OURS, OURS_EAGER] + [
        Contestant(peer, bf16, compiled, matmul, keep)
        for peer in PEERS
        if peer != "litgpt" or bench.has_litgpt
        for bf16 in ON_OFF
        for compiled in ON_OFF
        for matmul in ON_OFF
        for keep in ON_OFF
    ]
    chosen = [contestant for contestant in everybody if contestant.name == name]
    if not chosen:
        sys.exit(f"there is no {name!r}: take one of\n" + "\n".join(c.name for c in everybody))
    options = bench.options
    print(json.dumps(asdict(bench.measure(chosen[0], options.threads[0], options.steps))))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        if options.only:
            run_only(bench, options.only)
            return
        by_threads = {threads: compare(bench, threads) for threads in options.threads}
    if options.json:
        numbers = ("threads", "batch_size", "steps", "warm", "rounds", "first_steps")
        settings = {name: getattr(options, name) for name in numbers}
        report = {"machine": machine(), "options": settings, "threads": by_threads}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
