"""Choice of device, precision and compiler for this machine, each with its reason."""

import ctypes
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from lumenspark.errors import UserError

COMPILE_FROM_SECONDS = 90.0  # a cold compile takes about 30 s; below this it may not pay
COMPILE_FROM_STEPS = 500
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # in glibc's malloc.h
MOST_THREADS = 1024
MATMUL_TO_CONTEXT = 512  # tokens; beyond, explicit products fill memory (docs/log.md)


def choose_device(asked: str) -> str:
    """Resolve ``auto`` to the fastest device. Raises UserError for an unavailable device."""
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if asked == "auto":
        return available[0]
    if asked not in available:
        raise UserError(f"device {asked} is not available here: choose {', '.join(available)}")
    return asked


def choose_precision(asked: str, device: str) -> str:
    """Resolve ``auto`` to bf16 if the hardware multiplies bfloat16 natively, else to fp32."""
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device == "cpu":
        features = torch.cpu.get_capabilities()
        fast = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return "bf16" if fast else "fp32"
    return "fp32"


def choose_compile(asked: str, device: str, seconds: float | None, steps: int) -> tuple[bool, str]:
    """Whether to use torch.compile, and the reason as a sentence."""
    if asked == "off":
        return False, "no torch.compile, as asked"
    if not has_compiler(device):
        missing = "a C++ compiler" if device == "cpu" else "Triton"
        if asked == "on":
            raise UserError(f"train.compile is on, but there is no {missing} here: install one")
        return False, f"no torch.compile, because there is no {missing} here"
    if asked == "on":
        return True, "torch.compile, as asked"
    too_short = steps < COMPILE_FROM_STEPS if seconds is None else seconds < COMPILE_FROM_SECONDS
    if too_short:
        return False, "no torch.compile, because the run is too short to benefit"
    return True, "torch.compile (the first time takes half a minute)"


def has_compiler(device: str) -> bool:
    """Whether torch.compile has the compiler that it needs for this device."""
    if device == "cuda":
        return find_spec("triton") is not None
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "cl"]))


def attention_for(device: str, context: int) -> str:
    """The dense attention that trains fastest on windows of ``context`` tokens."""
    return "matmul" if device == "cpu" and context <= MATMUL_TO_CONTEXT else "sdpa"


def prepare_process(device: str, threads: int | None, cache: Path) -> None:
    """Settings of the whole process, before the first step.

    Denormal numbers are flushed to zero: arithmetic on them is many times slower, and decaying
    weights pass through them. Freed memory is kept by the process. Compiled kernels are cached
    between runs. On a GPU, deterministic kernels are preferred, if torch has them.

    Raises UserError for more threads than a process can start.
    """
    most = max(MOST_THREADS, 4 * (os.cpu_count() or 1))
    if threads is not None and threads > most:
        raise UserError(f"train.threads is {threads:,}: give one for each core, at most {most:,}")
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "compiled"))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, instead of returning it to the system.

    Otherwise the system zeroes the pages of large blocks again in every step, which takes a sixth
    to a third of the time of low-rank attention (``docs/log.md``). The process keeps its peak
    memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
