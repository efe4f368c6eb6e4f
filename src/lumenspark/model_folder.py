"""Validate a model folder before anything else reads it.

A folder from outside may be damaged or malicious. Its files are inspected without building a model:
file types, config.json and its layer counts, and the tensors in the weights.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lumenspark.errors import UserError, quoted, reading
from lumenspark.files import file_digest, sample_digest

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
MARKER = "complete.json"  # of a checkpoint: see runs/checkpoint.py
ADAPTER = "adapter_config.json"
LONGEST_JSON = 64_000_000  # bytes; the largest common tokenizer.json has about 35 MB
FEW = 4096  # layers, heads, experts and so on that any model may have
# Keys with numbers of model parts, each of which takes time to build, even on the meta device.
_COUNTS = re.compile(
    r"(num|n)_(\w+_)?(layers?|blocks|experts|codebooks|heads|labels|groups)"
    r"|(\w+_)?layers|depth|layer_types|attention_types"
    r"|num_(beams|beam_groups|return_sequences)"
)
_NOT_READ = {
    "*.bin": "a pickle, which may run code when loaded",
    "*.pt": "a pickle, which may run code when loaded",
    "*.pth": "a pickle, which may run code when loaded",
    "*.gguf": "made for llama.cpp",
    "*.h5": "made for TensorFlow",
    "*.msgpack": "made for Flax",
    "*.onnx": "made for ONNX",
}


@dataclass(frozen=True)
class ModelFolder:
    """Content of a model folder.

    Attributes:
        config: content of config.json.
        tensors: tensor shapes by name.
        integer_tensors: names of tensors of integer or bool type.
        bytes: size of the weights.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    integer_tensors: set[str]
    bytes: int

    @property
    def elements(self) -> int:
        """Number of elements of all tensors."""
        return sum(map(prod, self.tensors.values()))


def open_model_folder(path: Path, full_check: bool = False) -> ModelFolder:
    """Validate a folder without building the model.

    Files of a checkpoint of this package are verified by digest, large ones
    (:data:`lumenspark.files.LARGE`) by a sample unless ``full_check``.

    Raises UserError with the file and the fix.
    """
    check_files(path)
    if (path / MARKER).exists():
        _check_digests(path, full_check)
    if not (path / CONFIG).exists():
        raise UserError(
            f"{path} holds no {CONFIG}{_unsupported_files(path)}: name a folder with a model"
        )
    if (path / ADAPTER).exists():
        raise UserError(_adapter_message(path))
    fix = "download it again"
    config = read_json(path / CONFIG, fix)
    if not isinstance(config.get("auto_map") or {}, dict):
        raise UserError(f"{path / CONFIG} says auto_map = {quoted(config['auto_map'])}: {fix}")
    if (path / GENERATION).exists():  # transformers silently ignores a damaged one
        fix = "correct it, or delete it"
        check_counts(read_json(path / GENERATION, fix), path / GENERATION)
    files = _weight_files(path, config)
    found = {name: each for file in files for name, each in _tensors(file).items()}
    tensors = {name: shape for name, (shape, _) in found.items()}
    if not tensors:
        raise UserError(f"{files[0]} holds no tensors: download it again")
    check_counts(config, path / CONFIG, len(tensors))
    integers = {name for name, (_, kind) in found.items() if kind == "BOOL" or kind[0] in "IU"}
    return ModelFolder(path, config, tensors, integers, sum(file.stat().st_size for file in files))


def check_files(path: Path) -> None:
    """Raise UserError for pipes and devices, which may block, and for folders with file names."""
    with reading(path, "give a folder that you may read"):
        for entry in sorted([*path.iterdir(), *path.glob("additional_chat_templates/*")]):
            what = _entry_problem(entry)
            if what is not None:
                raise UserError(f"{entry} is {what}: replace it by the file, or remove it")


def _entry_problem(entry: Path) -> str | None:
    is_read = entry.suffix in {".json", ".safetensors", ".jinja", ".txt", ".model", ".py"}
    if entry.is_file():
        return None
    if entry.is_dir():
        return "a folder" if is_read else None
    if entry.is_symlink() and not entry.exists():
        return "a broken link" if is_read else None
    return "neither a file nor a folder"


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError with ``fix``."""
    with reading(path, fix):
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"it is larger than {LONGEST_JSON // 10**6} MB")
        content = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it is not a JSON object")
    return content


def check_counts(config: dict[str, Any], source: Path, tensors: int = 0) -> None:
    """Raise UserError for counts in a config.json that exceed the number of tensors.

    Even the list of layer types that transformers builds from some could fill the memory.
    """
    most = max(FEW, tensors)
    for key, value in _numbers(config):
        if _COUNTS.fullmatch(key) and not value <= most:  # also for NaN
            raise UserError(
                f"{source} has {key} = {quoted(value)}, above the maximum of {most:,}: download it "
                "again"
            )


def _check_digests(path: Path, full: bool) -> None:
    """Raise UserError for a file that differs from the saved checkpoint."""
    fix = f"use another checkpoint, or delete {MARKER} if you changed it yourself"
    content = read_json(path / MARKER, fix)
    with reading(path / MARKER, fix):
        digests, samples = dict(content["files"]), dict(content.get("samples", {}))
        outside = [name for name in digests if not _is_name(name)]
        if outside:
            raise ValueError("it names files outside its folder")
    for name, digest in digests.items():
        file = path / name
        if name.startswith("trainer."):  # read by training only
            continue
        if not file.is_file():
            raise UserError(f"{file} is missing: {fix}")
        with reading(file, fix):
            sampled = name in samples and not full
            whole = sample_digest(file) == samples[name] if sampled else file_digest(file) == digest
        if not whole:
            raise UserError(f"{file} was truncated or altered: {fix}")


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """All numbers with their keys; those in lists with the key of the list."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, part) for part in value)
        elif isinstance(value, int | float):
            yield key, value


def _weight_files(path: Path, config: dict[str, Any]) -> list[Path]:
    """The weight files that transformers reads: one, or all of the index."""
    first = config.get("transformers_weights") or WEIGHTS
    if first == WEIGHTS and not (path / WEIGHTS).exists():
        first = INDEX
    if not _is_name(first) or not str(first).endswith((".safetensors", ".safetensors.index.json")):
        raise UserError(
            f"{path / CONFIG} has transformers_weights = {quoted(first)}: it must be a "
            ".safetensors file in that folder"
        )
    if not (path / first).exists():
        raise UserError(
            f"{path} holds no {WEIGHTS}{_unsupported_files(path)}: save the weights there "
            "(model.save_pretrained)"
        )
    if not first.endswith(".json"):
        return [path / first]
    fix = "download it again"
    content = read_json(path / first, fix)
    with reading(path / first, fix):
        names = sorted({str(name) for name in dict(content["weight_map"]).values()})
        if not names:
            raise ValueError("it lists no files")
    for name in names:
        if not _is_name(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"{path / first} names {quoted(name)}, which is not a .safetensors file in that "
                f"folder: {fix}"
            )
        if not (path / name).exists():
            raise UserError(f"{path / name} is missing, which {first} lists: {fix}")
    return [path / name for name in names]


def _tensors(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and safetensors dtype of each tensor in a file, by name."""
    from safetensors import safe_open

    fix = "it is damaged, so download it again"
    with reading(file, fix), safe_open(file, framework="pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}


def _is_name(value: Any) -> bool:
    """Whether it is a plain file name, without a path."""
    return isinstance(value, str) and value not in {"", ".", ".."} and Path(value).name == value


def _unsupported_files(path: Path) -> str:
    """A message on files of unsupported formats in the folder."""
    for pattern, what in _NOT_READ.items():
        for file in sorted(path.glob(pattern)):
            return f", and {file.name} is {what}"
    return ""


def explain_other(path: Path) -> None:
    """Raise UserError with the reason for a folder without config.json, if it is known."""
    if (path / ADAPTER).exists():
        raise UserError(_adapter_message(path))
    what = _unsupported_files(path)
    if what:
        raise UserError(f"{path} holds no {CONFIG}{what}: name a folder with a model")


def _adapter_message(path: Path) -> str:
    fix = "remove it, or download it again"
    base = read_json(path / ADAPTER, fix).get("base_model_name_or_path")
    of = f" of {quoted(base)}" if isinstance(base, str) else ""
    return (
        f"{path} holds a peft adapter{of} ({ADAPTER}), not a model: load it with peft, and save "
        "the result of model.merge_and_unload()"
    )
