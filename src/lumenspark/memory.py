"""Memory required by a model or a training, and memory available, checked before allocation.

Exceeding the memory raises no exception: the system kills the process, and perhaps others. Sizes
are computed on the meta device, whose tensors have shapes but no data.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.errors import UserError

if TYPE_CHECKING:  # data preparation needs no torch
    from torch import nn

    from lumenspark.recipe import Recipe

FLOAT32, INT64 = 4, 8  # bytes
MODULE = 2000  # bytes of a module without weights; measured: 2 to 4 kB
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def check_memory(needed: float, what: str, device: str, fix: str) -> None:
    """Raise UserError if ``what`` needs more bytes than ``device`` has in total.

    Memory used by other processes counts as available, since it may be freed.
    """
    available = memory_limit(device)
    if needed > available:
        place = "this machine" if device == "cpu" else f"the device {device}"
        raise UserError(
            f"{what} needs about {size(needed)} of memory at least, and {place} has "
            f"{size(available)}: {fix}"
        )


def memory_limit(device: str = "cpu") -> float:
    """Bytes available to a process: physical memory, or a lower limit of process or cgroup."""
    if device != "cpu":
        import torch
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[1]
    if device == "mps":
        return torch.mps.recommended_max_memory()
    return min([_physical(), _process_limit(), *_cgroup_limits()])


def size(count: float) -> str:
    """Format bytes with a unit: ``1.1 MB``."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} {_UNITS[-1]}" if count < 1e6 else f"over a million {_UNITS[-1]}"


def on_meta(build: Callable[[], Any], most_modules: int | None = None) -> Any:
    """Run ``build`` on the meta device. Raises UserError beyond ``most_modules`` modules."""
    import torch
    from transformers.initialization import meta_device_safe_creation_ops

    with torch.device("meta"), meta_device_safe_creation_ops(), _at_most(most_modules):
        return build()


@contextmanager
def _at_most(modules: int | None) -> Iterator[None]:
    if modules is None:
        yield
        return
    from torch.nn.modules.module import register_module_module_registration_hook

    left = modules

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError(f"its config.json describes a model of more than {modules:,} modules")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def parameter_count(model: "nn.Module") -> int:
    """Number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_bytes(recipe: "Recipe", model: "nn.Module", one_block_more: Any = None) -> int:
    """Lower bound of the memory of a training, so that nothing feasible is refused.

    Weights, gradients and optimizer state; logits and their gradients; four activations per
    feature, token and block; the windows of a step. With ``one_block_more`` (the same model with
    two blocks), ``model`` has a single block, and the size is extrapolated.
    """
    shape = recipe.model
    depth = shape.depth if shape.family == "lumenspark" else shape.num_hidden_layers
    width = shape.embed_dim if shape.family == "lumenspark" else shape.hidden_size
    weights, modules = parameter_count(model), _modules(model)
    if one_block_more is not None:
        weights += (depth - 1) * (parameter_count(one_block_more) - weights)
        modules += (depth - 1) * (_modules(one_block_more) - modules)
    options = recipe.train
    copies = 3 + (recipe.optim.name == "adamw") + (options.ema_decay > 0)
    number = FLOAT32 if options.precision == "fp32" else FLOAT32 // 2
    tokens = options.batch_size * shape.context
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    return (
        FLOAT32 * copies * weights
        + MODULE * modules
        + 2 * number * tokens * vocabulary
        + 4 * number * tokens * width * depth
        + INT64 * options.gradient_accumulation_steps * options.batch_size * (shape.context + 1)
    )


def _modules(model: "nn.Module") -> int:
    return sum(1 for _ in model.modules())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is an out-of-memory error."""
    import torch

    while True:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            return True  # from torch's CPU allocator
        if error.__cause__ is None:
            return False
        error = error.__cause__


def _physical() -> float:
    if sys.platform == "win32":
        import ctypes

        kilobytes = ctypes.c_ulonglong()
        asked = ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))
        return kilobytes.value * 1024 if asked else float("inf")
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _process_limit() -> float:
    if sys.platform == "win32":
        return float("inf")
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return float("inf") if allowed == resource.RLIM_INFINITY else float(allowed)


def _cgroup_limits(root: Path = Path("/")) -> list[float]:
    """Memory limits of the process's cgroups (Linux: containers, batch jobs)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = mounted / controllers
        folder = top / inside.strip("/")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            try:
                found.append(float((place / file).read_text()))
            except (OSError, ValueError):  # "max": no limit
                continue
    return found
