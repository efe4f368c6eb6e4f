"""A folder with a model in it, checked before anybody else reads it.

What lies in a folder from outside may be damaged, or made to do harm. Here its files are looked at
without building anything: that they are files, that config.json can be read and counts no more
layers than there are tensors, and which tensors the weights hold.
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
LONGEST_JSON = 64_000_000  # bytes; the largest tokenizer.json in use have about 35 MB
FEW = 4096  # layers, heads or experts, and so on, that any model may have
# Keys that say how many parts a model has. Building and even describing them takes time for each.
_COUNTS = re.compile(
    r"(num|n)_(\w+_)?(layers?|blocks|experts|codebooks|heads|labels|groups)"
    r"|(\w+_)?layers|depth|layer_types|attention_types"
    r"|num_(beams|beam_groups|return_sequences)"
)
_NOT_READ = {
    "*.bin": "a pickle, which may run code when it is read",
    "*.pt": "a pickle, which may run code when it is read",
    "*.pth": "a pickle, which may run code when it is read",
    "*.gguf": "made for llama.cpp",
    "*.h5": "made for TensorFlow",
    "*.msgpack": "made for Flax",
    "*.onnx": "made for ONNX",
}


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says that it holds.

    Attributes:
        config: the content of config.json.
        tensors: the shape of every tensor in the weights, by name.
        whole: the names of those that hold whole numbers.
        bytes: of the weights.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    whole: set[str]
    bytes: int

    @property
    def numbers(self) -> int:
        """In all tensors together."""
        return sum(map(prod, self.tensors.values()))


def open_model_folder(path: Path, full_check: bool = False) -> ModelFolder:
    """Check a folder, as far as can be without building the model.

    A checkpoint of this package has a digest of each file, which is compared: of large files
    (:data:`lumenspark.files.LARGE`) by a sample, unless ``full_check`` asks for all of it.

    Raises UserError, which names the file and what to do.
    """
    check_files(path)
    if (path / MARKER).exists():
        _check_digests(path, full_check)
    if not (path / CONFIG).exists():
        raise UserError(f"{path} holds no {CONFIG}{_what_else(path)}: name a folder with a model")
    if (path / ADAPTER).exists():
        raise UserError(_about_adapter(path))
    fix = "take it from where the model comes from"
    config = read_json(path / CONFIG, fix)
    if not isinstance(config.get("auto_map") or {}, dict):
        raise UserError(f"{path / CONFIG} says auto_map = {quoted(config['auto_map'])}: {fix}")
    if (path / GENERATION).exists():  # transformers passes over a damaged one without a word
        fix = "correct it, or delete it"
        check_counts(read_json(path / GENERATION, fix), path / GENERATION)
    files = _weight_files(path, config)
    found = {name: each for file in files for name, each in _tensors(file).items()}
    tensors = {name: shape for name, (shape, _) in found.items()}
    if not tensors:
        raise UserError(f"{files[0]} holds no tensors: take it from where the model comes from")
    check_counts(config, path / CONFIG, len(tensors))
    whole = {name for name, (_, kind) in found.items() if kind == "BOOL" or kind[0] in "IU"}
    return ModelFolder(path, config, tensors, whole, sum(file.stat().st_size for file in files))


def check_files(path: Path) -> None:
    """Raises UserError for what would be waited for without an end, or is not what its name says.

    Of a pipe in the place of a file nothing might ever come.
    """
    with reading(path, "give a folder that you may read"):
        for entry in sorted([*path.iterdir(), *path.glob("additional_chat_templates/*")]):
            what = _what_is_wrong(entry)
            if what is not None:
                raise UserError(f"{entry} is {what}: put the file there, or take it away")


def _what_is_wrong(entry: Path) -> str | None:
    is_read = entry.suffix in {".json", ".safetensors", ".jinja", ".txt", ".model", ".py"}
    if entry.is_file():
        return None
    if entry.is_dir():
        return "a folder" if is_read else None
    if entry.is_symlink() and not entry.exists():
        return "a link that leads nowhere" if is_read else None
    return "neither a file nor a folder"


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The content of a file that must hold a JSON object. Raises UserError, with ``fix`` in it."""
    with reading(path, fix):
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"it is larger than {LONGEST_JSON // 10**6} MB")
        content = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(content, dict):
            raise TypeError("it holds no JSON object")
    return content


def check_counts(config: dict[str, Any], source: Path, tensors: int = 0) -> None:
    """Raises UserError where a config.json says so many layers that they cannot all have weights.

    Already a list of their kinds, which transformers makes of some, would fill the memory.
    """
    most = max(FEW, tensors)
    for key, value in _numbers(config):
        if _COUNTS.fullmatch(key) and not value <= most:  # NaN is no count either
            raise UserError(
                f"{source} says {key} = {quoted(value)}, and no more than {most:,} can be: take it "
                "from where the model comes from"
            )


def _check_digests(path: Path, full: bool) -> None:
    """Raises UserError for a file that is not what it was when a training saved it here."""
    fix = f"take another checkpoint, or delete {MARKER} if you changed it yourself"
    content = read_json(path / MARKER, fix)
    with reading(path / MARKER, fix):
        digests, samples = dict(content["files"]), dict(content.get("samples", {}))
        outside = [name for name in digests if not _is_name(name)]
        if outside:
            raise ValueError("it names files outside of its folder")
    for name, digest in digests.items():
        file = path / name
        if name.startswith("trainer."):  # only training reads these
            continue
        if not file.is_file():
            raise UserError(f"{file} is missing: {fix}")
        with reading(file, fix):
            sampled = name in samples and not full
            whole = sample_digest(file) == samples[name] if sampled else file_digest(file) == digest
        if not whole:
            raise UserError(f"{file} was truncated or altered: {fix}")


def _numbers(config: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """All numbers with their keys; those in a list have the list's."""
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
    """Those that transformers will read: one, or all that the index names."""
    first = config.get("transformers_weights") or WEIGHTS
    if first == WEIGHTS and not (path / WEIGHTS).exists():
        first = INDEX
    if not _is_name(first) or not str(first).endswith((".safetensors", ".safetensors.index.json")):
        raise UserError(
            f"{path / CONFIG} says transformers_weights = {quoted(first)}: it must name a "
            ".safetensors file in that folder"
        )
    if not (path / first).exists():
        raise UserError(
            f"{path} holds no {WEIGHTS}{_what_else(path)}: save the weights there "
            "(model.save_pretrained)"
        )
    if not first.endswith(".json"):
        return [path / first]
    fix = "take it from where the model comes from"
    content = read_json(path / first, fix)
    with reading(path / first, fix):
        names = sorted({str(name) for name in dict(content["weight_map"]).values()})
        if not names:
            raise ValueError("it names no files")
    for name in names:
        if not _is_name(name) or not name.endswith(".safetensors"):
            raise UserError(
                f"{path / first} names {quoted(name)}, which is no .safetensors file in that "
                f"folder: {fix}"
            )
        if not (path / name).exists():
            raise UserError(f"{path / name} is missing, and {first} names it: {fix}")
    return [path / name for name in names]


def _tensors(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type (as safetensors writes it) of each tensor in a file, by name."""
    from safetensors import safe_open

    fix = "it was truncated or altered, so take it from where the model comes from"
    with reading(file, fix), safe_open(file, framework="pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (tuple(s.get_shape()), str(s.get_dtype())) for name, s in slices.items()}


def _is_name(value: Any) -> bool:
    """Whether it names something in the folder itself."""
    return isinstance(value, str) and value not in {"", ".", ".."} and Path(value).name == value


def _what_else(path: Path) -> str:
    """What lies there in the place of weights that can be read, for a message."""
    for pattern, what in _NOT_READ.items():
        for file in sorted(path.glob(pattern)):
            return f", and {file.name} is {what}"
    return ""


def explain_other(path: Path) -> None:
    """Raises UserError for a folder without config.json where it is known what it holds."""
    if (path / ADAPTER).exists():
        raise UserError(_about_adapter(path))
    what = _what_else(path)
    if what:
        raise UserError(f"{path} holds no {CONFIG}{what}: name a folder with a model")


def _about_adapter(path: Path) -> str:
    fix = "take it away, or take it from where the adapter comes from"
    base = read_json(path / ADAPTER, fix).get("base_model_name_or_path")
    of = f" of {quoted(base)}" if isinstance(base, str) else ""
    return (
        f"{path} holds an adapter{of}, made by peft (its {ADAPTER}), and no model by itself: load "
        "it with peft, and save what model.merge_and_unload() gives"
    )
