"""Time and memory of preparing text, side by side with ``datasets.map``.

    python benchmarks/prepare_data.py --megabytes 1000 [--peer]

Makes texts of 10 MB, 100 MB and the size asked for, with new words all along, and prepares each
in a fresh process: read, learn the tokenizer, encode, write. Peak memory is VmHWM, the highest
resident set of that process, as Linux counts it; it has threads but no child processes, which is
checked, so it is the peak of the whole process tree. The peer, ``datasets.load_dataset("text")``
with ``.map(tokenize, batched=True)``, is given the finished tokenizer, and so is a second run of
ours beside it; it is run on 10 MB, with ``--peer`` on every size.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SYLLABLES = [a + b + c for a in "bdfglmnprstv" for b in ("a", "e", "i", "o", "u", "ea") for c in
             ("", "n", "r")]  # fmt: skip
COMMON = 50_000  # words that come again and again, by Zipf's law
NEW = 0.01  # of all words are new ones


def word(number: int) -> str:
    """A different word for every number."""
    parts = []
    while True:
        number, digit = divmod(number, len(SYLLABLES))
        parts.append(SYLLABLES[digit])
        if not number:
            return "-".join(parts) if len(parts) > 4 else "".join(parts)


def make_text(path: Path, megabytes: int) -> None:
    """Sentences of 12 words, paragraphs of 8 sentences; the same bytes on every machine."""
    random = np.random.default_rng(0)
    common = [word(number) for number in range(COMMON)]
    odds = np.cumsum(1 / np.arange(1, COMMON + 1))
    new, size = COMMON, 0
    with path.open("w", encoding="ascii") as file:
        while size < megabytes * 1_000_000:
            draws = np.searchsorted(odds, random.random(96) * odds[-1])
            words = [common[draw] for draw in draws]
            for place in np.flatnonzero(random.random(96) < NEW):
                words[place] = word(new)
                new += 1
            sentences = (" ".join(words[i : i + 12]).capitalize() for i in range(0, 96, 12))
            size += file.write(". ".join(sentences) + ".\n\n")


def prepare_once(text: Path, cache: Path, tokenizer: str | None) -> int:
    from lumenspark.data.corpora import open_corpus
    from lumenspark.data.tokens import prepare

    prepared = prepare(open_corpus(str(text)), cache=cache, tokenizer_name=tokenizer)
    return sum(len(split.ids) for split in prepared.splits.values())


def map_once(text: Path, cache: Path, tokenizer: str) -> int:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    encode = AutoTokenizer.from_pretrained(tokenizer)
    rows = datasets.load_dataset("text", data_files=str(text), split="train", cache_dir=str(cache))
    rows = rows.map(lambda batch: {"ids": encode(batch["text"])["input_ids"]}, batched=True)
    return len(rows)


def measure(work: Callable[[], int]) -> None:
    """Run ``work`` in this process and print what it took as one line of JSON."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # Not ru_maxrss: that of a new process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    cores = (usage.ru_utime + usage.ru_stime) / seconds
    print(json.dumps({"seconds": seconds, "cores": cores, "peak": peak, "children": children}))


def fresh(*arguments: object) -> dict[str, float]:
    """The same script in a new process, for one measurement."""
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def row(what: str, megabytes: int, figures: dict[str, float]) -> None:
    seconds = figures["seconds"]
    alone = "" if not figures["children"] else "  (has child processes, not counted)"
    print(
        f"{what:32} {megabytes:6,} {seconds:9.2f} {megabytes / seconds:9.1f} "
        f"{figures['cores']:6.2f} {figures['peak'] / 1000:9,.0f}{alone}",
        flush=True,
    )


def save_tokenizer(cache: Path, folder: Path) -> None:
    from tokenizers import Tokenizer

    from lumenspark.data.tokenizer import to_transformers

    path = next(cache.glob("tokens/*/tokenizer.json"))
    to_transformers(Tokenizer.from_file(str(path))).save_pretrained(folder)


def table(megabytes: int, peer: bool, scratch: Path) -> None:
    print(f"{'':32} {'MB':>6} {'seconds':>9} {'MB/s':>9} {'cores':>6} {'peak MB':>9}")
    for size in sorted({10, 100, megabytes}):
        text, cache = scratch / f"{size}.txt", scratch / f"cache-{size}"
        make_text(text, size)
        row("lumenspark prepare", size, fresh("--prepare", text, "--cache", cache))
        row("lumenspark prepare, second run", size, fresh("--prepare", text, "--cache", cache))
        if peer or size == 10:
            tokenizer = scratch / f"tokenizer-{size}"
            save_tokenizer(cache, tokenizer)
            given = ("--tokenizer", tokenizer, "--cache", cache)
            row("lumenspark, tokenizer given", size, fresh("--prepare", text, *given))
            row("datasets map, tokenizer given", size, fresh("--map", text, *given))
        text.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the largest text")
    parser.add_argument("--peer", action="store_true", help="run datasets.map on every size")
    parser.add_argument("--scratch", type=Path, help="where to make the texts (default: temporary)")
    for hidden in ("--prepare", "--map", "--cache"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        measure(lambda: prepare_once(asked.prepare, asked.cache, asked.tokenizer))
    elif asked.map:
        measure(lambda: map_once(asked.map, asked.cache, asked.tokenizer))
    else:
        with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
            table(asked.megabytes, asked.peer, Path(scratch))


if __name__ == "__main__":
    main()
