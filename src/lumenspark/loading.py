"""Load a model and its tokenizer by folder, run or hub id."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumenspark.errors import UserError, quoted, reading
from lumenspark.hub import fetch, split_revision
from lumenspark.memory import (
    check_memory,
    is_out_of_memory,
    memory_limit,
    on_meta,
    parameter_count,
    size,
)
from lumenspark.model_folder import (
    CONFIG,
    GENERATION,
    ModelFolder,
    explain_other,
    open_model_folder,
)
from lumenspark.quiet import quiet
from lumenspark.runs.run import model_source, runs_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from lumenspark.models.registry import LanguageModel

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MODULES_PER_TENSOR, MORE_MODULES = 50, 10_000  # common models have up to 3 modules per tensor
FEW_NUMBERS = 10**6
PACKED = 8  # quantised weights per byte, at most
PROBE_TOKENS = 4


def load(
    name: str,
    checkpoint: str = "best",
    device: str = "cpu",
    trust_remote_code: bool = False,
    revision: str | None = None,
    full_check: bool = False,
) -> "tuple[LanguageModel, PreTrainedTokenizerFast]":
    """Load a model for evaluation and generation: ``model, tokenizer = lumenspark.load("latest")``.

    Works for every causal language model that transformers can load from safetensors, whose class
    is that of its architecture; ``name`` as in :func:`locate`. The tensors in the folder must match
    those of the model exactly. Files of a checkpoint of this package are verified by digest, large
    ones by a sample unless ``full_check``. No code of the folder is run unless
    ``trust_remote_code``. ``model.hub_revision`` is the commit of a hub model, else None.

    Raises UserError if the model cannot be loaded.
    """
    from lumenspark.data.tokenizer import load_tokenizer

    folder, commit = locate(name, checkpoint, revision, code=trust_remote_code)
    source = open_model_folder(folder, full_check)
    with quiet(), _fitting(source, device):
        model = load_model(source, device, trust_remote_code)
        tokenizer = load_tokenizer(source.path, model, trust_remote_code)
    model.hub_revision = commit
    return model, tokenizer


def locate(
    name: str, checkpoint: str = "best", revision: str | None = None, code: bool = False
) -> tuple[Path, str | None]:
    """The folder of a model, and the commit of a hub model (else None).

    ``name`` is a model folder, a run folder, a run id or a unique prefix of one, ``latest``, or a
    hub id, optionally with a revision: ``org/model@revision``.

    Raises UserError for an unknown name.
    """
    bare, revision = split_revision(name, revision)
    try:
        source = model_source(bare, checkpoint)
    except UserError:
        if Path(bare).is_dir():
            explain_other(Path(bare))
        raise
    if Path(source).is_dir():
        if revision is not None:
            raise UserError(f"{bare} is a local model, which has no revisions: omit the revision")
        return Path(source), None
    if not HUB_ID.fullmatch(source):
        raise UserError(
            f"{quoted(source)} is no folder and no run in {runs_folder().resolve()}, nor a hub "
            "id such as org/model: `lumenspark runs` lists the runs"
        )
    return fetch(source, revision, code=code)


def load_model(
    source: ModelFolder,
    device: str = "cpu",
    trust_remote_code: bool = False,
    model_class: Any = None,
) -> Any:
    """Load the model of a folder, verify its tensors, and run it once.

    ``model_class``: the class to load; default: from config.json.
    """
    path = source.path
    fix = f"download {CONFIG} and weights again"
    with reading(f"the model in {path}", fix):
        config = _config(source, trust_remote_code)
        builder = model_class or _model_class(source)
        shapes = on_meta(
            lambda: _built(builder, config, trust_remote_code),
            MODULES_PER_TENSOR * len(source.tensors) + MORE_MODULES,
        )
        _check_sizes(source, shapes, device)
        model, report = builder.from_pretrained(
            path,
            config=config,
            use_safetensors=True,  # other files are pickles
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported below
            output_loading_info=True,
        )
    _check_report(source, model, report)
    with reading(f"the model in {path}", f"it loads but does not run, so {fix}"):
        model = model.to(device).eval()
        _probe(model)
    return model


def _config(source: ModelFolder, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    from lumenspark.models import LumensparkConfig
    from lumenspark.models.legacy_checkpoints import is_old_config

    if is_old_config(source.config):  # lumenspark 0.1 may lack model_type
        config = LumensparkConfig.from_dict(dict(source.config))
    else:
        config = AutoConfig.from_pretrained(
            source.path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    # A config.json may name a hub kernel here, which would be downloaded and run.
    config._attn_implementation = config._experts_implementation = {"": None}
    return config


def _model_class(source: ModelFolder) -> Any:
    """The class to load: transformers' Auto class, or this package's class of compressed models.

    The latter avoids running the copy of its code beside the weights.
    """
    from transformers import AutoModelForCausalLM

    from lumenspark.models import LumensparkForCausalLM, modeling_compressed
    from lumenspark.models.legacy_checkpoints import is_old_config

    if is_old_config(source.config):
        return LumensparkForCausalLM
    written = source.config.get("auto_map")
    code = written.get("AutoModelForCausalLM") if isinstance(written, dict) else None
    module, _, name = str(code).partition(".")
    if not (source.config.get("module_ranks") and module == "modeling_compressed"):
        return AutoModelForCausalLM
    return modeling_compressed.model_class(name)


def _built(model_class: Any, config: Any, trust_remote_code: bool) -> Any:
    if hasattr(model_class, "from_config"):
        return model_class.from_config(config, trust_remote_code=trust_remote_code)
    return model_class(config)


def _check_sizes(source: ModelFolder, shapes: Any, device: str) -> None:
    """Raise UserError if the model is far larger than its weights, or than the memory.

    Otherwise missing tensors would be allocated and initialised before they are reported.
    """
    described, held = parameter_count(shapes), source.elements
    if getattr(shapes.config, "quantization_config", None) is not None:
        held = max(held, PACKED * source.bytes)
    if described > 2 * held + FEW_NUMBERS:
        raise UserError(
            f"{source.path / CONFIG} describes a model of {described:,} parameters, and its "
            f"weights hold {held:,}: download both again"
        )
    needed = sum(buffer.numel() * buffer.element_size() for buffer in shapes.buffers())
    needed += source.bytes
    fix = "use a smaller model, or a machine with more memory"
    for place in {"cpu", device}:
        check_memory(needed, f"the model in {source.path}", place, fix)


def _check_report(source: ModelFolder, model: Any, report: dict[str, Any]) -> None:
    """Raise UserError for missing, unexpected or misshaped tensors, and for invalid values."""
    path, fix = source.path, "download weights and config.json again"
    missing, wrong = report["missing_keys"], report["mismatched_keys"]
    if missing:
        raise UserError(f"the weights in {path} lack {_listed(missing)}: {fix}")
    if wrong:
        name, found, expected = min(wrong)
        raise UserError(
            f"{name} in {path} has the shape {tuple(found)}, and {CONFIG} requires "
            f"{tuple(expected)}: {fix}"
        )
    unknown = _unexpected(model, report["unexpected_keys"], source.config)
    if unknown:
        raise UserError(
            f"the weights in {path} hold {_listed(unknown)}, which a {type(model).__name__} does "
            f"not have: {fix}"
        )
    if report["error_msgs"]:
        raise UserError(f"the weights in {path} cannot be loaded: {fix}")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            raise UserError(f"the weights in {path} lack {name}: {fix}")
    quantised = getattr(model.config, "quantization_config", None) is not None
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and name in source.integer_tensors and not quantised:
            raise UserError(f"{name} in {path} has an integer type, unlike weights: {fix}")
        if tensor.is_floating_point() and tensor.itemsize > 1 and not tensor.isfinite().all():
            raise UserError(
                f"{name} in {path} has values that are not finite, as after a diverged training: "
                "use an earlier checkpoint"
            )


def _unexpected(model: Any, names: Any, config: dict[str, Any]) -> list[str]:
    """Unexpected tensors, except computed buffers, and other parts of multimodal models."""
    if isinstance(config.get("text_config"), dict):
        return []
    buffers = {name for name, _ in model.named_buffers()}
    computed = re.compile(r"(^|\.)(masked_bias|inv_freq|position_ids)$")
    return sorted(name for name in names if name not in buffers and not computed.search(name))


def _probe(model: Any) -> None:
    """Run a few tokens, which detects errors in config.json."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % vocabulary
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    if logits.shape[:2] != ids.shape:
        raise ValueError(
            f"its logits have the shape {tuple(logits.shape)} for {PROBE_TOKENS} tokens"
        )
    if logits.isnan().any():
        raise ValueError("its logits are NaN")


def check_generation(model: Any, tokenizer: Any) -> None:
    """Raise UserError if generation fails with the folder's generation_config.json."""
    import torch

    file = f"{model.name_or_path}/{GENERATION}"
    ids = torch.tensor([tokenizer("a")["input_ids"][-1:] or [0]], device=model.device)
    with quiet(), reading(file, "correct it, or delete it"):
        model.generate(ids, max_new_tokens=2, do_sample=True, pad_token_id=0)


@contextmanager
def _fitting(source: ModelFolder, device: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"the model in {source.path} does not fit into the free memory of {device} "
            f"({size(source.bytes)} of weights, {size(memory_limit(device))} of memory in total): "
            "close other programs, or use a smaller model"
        ) from error


def _listed(names: Any) -> str:
    """The first three by name, and how many more."""
    shown = ", ".join(name if len(name) < 80 else quoted(name) for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"
