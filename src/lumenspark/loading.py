"""Loading a model and its tokenizer by any of its names."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

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

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MODULES_PER_TENSOR, MORE_MODULES = 50, 10_000  # of models in use: up to 3 modules for each tensor
FEW_NUMBERS = 10**6
PACKED = 8  # numbers that a quantised weight may hold in a byte
TRIED = 4  # tokens


def load(
    name: str,
    checkpoint: str = "best",
    device: str = "cpu",
    trust_remote_code: bool = False,
    revision: str | None = None,
    full_check: bool = False,
) -> tuple[Any, Any]:
    """``model, tokenizer = lumenspark.load("latest")``: ready to evaluate and to generate.

    Works for every causal language model that transformers can load from safetensors; ``name`` as
    in :func:`locate`. Every tensor that the model has must lie in the folder, and every one that
    lies there must be the model's. What a checkpoint of this package has a digest of is compared,
    large files by a sample unless ``full_check``. Nothing of the folder is run unless
    ``trust_remote_code``. ``model.hub_revision`` is the commit that a model of the hub is of.

    Raises UserError where nothing of that name can be loaded.
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
    """The folder that a name means, and the commit where it is of the hub.

    ``name`` is a folder (a saved model, or a run's), a run id, the unique beginning of one,
    ``latest``, or a hub id, which may say a revision: ``org/model@revision``.

    Raises UserError for a name that leads nowhere.
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
            raise UserError(
                f"{bare} lies on this machine, and a revision is one of the hub's: leave it out"
            )
        return Path(source), None
    if not HUB_ID.fullmatch(source):
        raise UserError(
            f"{quoted(source)} is no folder and no run in {runs_folder().resolve()}, and a model "
            "on the hub has a name like org/model: `lumenspark runs` lists the runs"
        )
    return fetch(source, revision, code=code)


def load_model(
    source: ModelFolder,
    device: str = "cpu",
    trust_remote_code: bool = False,
    model_class: Any = None,
) -> Any:
    """The model in a folder, all of whose tensors fit, and which has been run once.

    ``model_class`` is what loads it, unless it is to be found out.
    """
    path = source.path
    fix = f"take {CONFIG} and weights from where the model comes from"
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
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
        )
    _check_report(source, model, report)
    with reading(f"the model in {path}", f"it loads and cannot be run, so {fix}"):
        model = model.to(device).eval()
        _try_out(model)
    return model


def _config(source: ModelFolder, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    from lumenspark.models import LumensparkConfig
    from lumenspark.models.legacy_checkpoints import is_old_config

    if is_old_config(source.config):  # lumenspark 0.1 need not say there what model it is
        config = LumensparkConfig.from_dict(dict(source.config))
    else:
        config = AutoConfig.from_pretrained(
            source.path, trust_remote_code=trust_remote_code, local_files_only=True
        )
    # A config.json may name a kernel on the hub here, which would be fetched and run.
    config._attn_implementation = config._experts_implementation = {"": None}
    return config


def _model_class(source: ModelFolder) -> Any:
    """What loads the model: transformers' Auto class, and for what we have compressed our own code.

    That code lies beside the weights too, but so it need not be run from there, nor trusted.
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
    """Raises UserError where the model is far larger than the weights, or than the memory.

    What has no tensor would get memory, and random numbers, before that could be seen. A few that
    are missing are named afterwards.
    """
    described, held = parameter_count(shapes), source.numbers
    if getattr(shapes.config, "quantization_config", None) is not None:
        held = max(held, PACKED * source.bytes)
    if described > 2 * held + FEW_NUMBERS:
        raise UserError(
            f"{source.path / CONFIG} describes a model of {described:,} parameters, and its "
            f"weights hold {held:,}: take both from where the model comes from"
        )
    needed = sum(buffer.numel() * buffer.element_size() for buffer in shapes.buffers())
    needed += source.bytes
    fix = "take a smaller model, or a machine with more memory"
    for place in {"cpu", device}:
        check_memory(needed, f"the model in {source.path}", place, fix)


def _check_report(source: ModelFolder, model: Any, report: dict[str, Any]) -> None:
    """Raises UserError for tensors that are missing, of another shape, or not the model's."""
    path, fix = source.path, "take weights and config.json from where the model comes from"
    missing, wrong = report["missing_keys"], report["mismatched_keys"]
    if missing:
        raise UserError(f"the weights in {path} lack {_listed(missing)}: {fix}")
    if wrong:
        name, there, expected = min(wrong)
        raise UserError(
            f"{name} in {path} has the shape {tuple(there)}, and by its {CONFIG} it should be "
            f"{tuple(expected)}: {fix}"
        )
    unknown = _not_of(model, report["unexpected_keys"], source.config)
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
        if tensor.is_floating_point() and name in source.whole and not quantised:
            raise UserError(f"{name} in {path} holds whole numbers, as no weights do: {fix}")
        if tensor.is_floating_point() and tensor.itemsize > 1 and not tensor.isfinite().all():
            raise UserError(
                f"{name} in {path} holds numbers that are not finite, as after a training that "
                "diverged: take weights from before"
            )


def _not_of(model: Any, names: Any, config: dict[str, Any]) -> list[str]:
    """Tensors that change nothing are let pass.

    Those are buffers, which are computed, and what lies beside the language model where a
    config.json is of several models.
    """
    if isinstance(config.get("text_config"), dict):
        return []
    buffers = {name for name, _ in model.named_buffers()}
    computed = re.compile(r"(^|\.)(masked_bias|inv_freq|position_ids)$")
    return sorted(name for name in names if name not in buffers and not computed.search(name))


@torch.no_grad()
def _try_out(model: Any) -> None:
    """Run a few tokens: what config.json says wrongly often shows here alone."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(TRIED, device=model.device)[None] % vocabulary
    logits = model(input_ids=ids).logits
    if logits.shape[:2] != ids.shape:
        raise ValueError(f"it gives logits of the shape {tuple(logits.shape)} for {TRIED} tokens")
    if logits.isnan().any():
        raise ValueError("its logits are not numbers")


def check_generation(model: Any, tokenizer: Any) -> None:
    """Raises UserError where the settings that lie beside the weights make generating fail."""
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
            f"the model in {source.path} does not fit into the memory that is free on {device} "
            f"({size(source.bytes)} of weights; there are {size(memory_limit(device))} in all): "
            "end other programs, or take a smaller model"
        ) from error


def _listed(names: Any) -> str:
    """The first three by name, and how many more."""
    shown = ", ".join(name if len(name) < 80 else quoted(name) for name in sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more"
