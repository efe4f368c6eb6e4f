"""What a model or a training needs of memory, and what this machine has: asked before it is taken.

A process that asks for more than there is gets no exception: the system ends it, and perhaps
others. So sizes are counted on the meta device, whose tensors have shapes and no content.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.errors import UserError

if TYPE_CHECKING:  # what prepares text needs no torch
    from torch import nn

    from lumenspark.recipe import Recipe

FLOAT32, INT64 = 4, 8  # bytes
MODULE = 2000  # bytes of a module without its weights; measured: 2 to 4 kB
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def check_memory(needed: float, what: str, device: str, fix: str) -> None:
    """Raises UserError where ``what`` needs more bytes than ``device`` has in all.

    What others use at the moment does not count: it may be free in a second.
    """
    there = memory_limit(device)
    if needed > there:
        place = "this machine" if device == "cpu" else f"the device {device}"
        raise UserError(
            f"{what} needs about {size(needed)} of memory at least, and {place} has {size(there)}: "
            f"{fix}"
        )


def memory_limit(device: str = "cpu") -> float:
    """Bytes that a process can have there: the physical memory, or less where less is allowed."""
    if device != "cpu":
        import torch
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[1]
    if device == "mps":
        return torch.mps.recommended_max_memory()
    return min([_physical(), _of_process(), *_of_group()])


def size(count: float) -> str:
    """Bytes in a unit that fits: ``1.1 MB``."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} {_UNITS[-1]}" if count < 1e6 else f"over a million {_UNITS[-1]}"


def on_meta(build: Callable[[], Any], most_modules: int | None = None) -> Any:
    """What ``build`` makes, as shapes alone. Raises UserError past ``most_modules`` modules."""
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
    """Numbers in a model's weights, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_bytes(recipe: "Recipe", model: "nn.Module", one_block_more: Any = None) -> int:
    """What training takes at least: less than it will be, so that nothing is refused that works.

    Weights, gradients and the optimizer's state; the logits of a forward pass and their gradient;
    four numbers of each feature, token and block that wait for the backward pass; the windows of a
    step. With ``one_block_more``, ``model`` has one block in the place of the recipe's.
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
    """Whether an error, or one that it came from, says that memory was refused."""
    import torch

    while True:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            return True  # of torch's allocator for the processor
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


def _of_process() -> float:
    if sys.platform == "win32":
        return float("inf")
    import resource

    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return float("inf") if allowed == resource.RLIM_INFINITY else float(allowed)


def _of_group(root: Path = Path("/")) -> list[float]:
    """The limits of the control groups that this process is in (Linux: containers, batch jobs)."""
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
            except (OSError, ValueError):  # a group without a limit says "max"
                continue
    return found
