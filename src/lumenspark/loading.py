"""Loading a model and its tokenizer by any of its names."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from lumenspark.data.hub import reach
from lumenspark.errors import UserError, first_line
from lumenspark.training.run import model_source, runs_folder


def load(
    name: str,
    checkpoint: str = "best",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """``model, tokenizer = lumenspark.load("latest")``: ready to evaluate and to generate.

    Works for every causal language model that transformers can load; ``name`` as in
    :func:`model_source`. Raises UserError where nothing of that name can be loaded.
    """
    from transformers import AutoTokenizer

    quiet_transformers()
    source = model_source(name, checkpoint)
    check_source(source)
    try:
        model_class = _model_class(source)
        model = model_class.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        raise UserError(f"the model in {source} cannot be loaded: {reason}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(
            f"there is no tokenizer in {source}, or none that can be loaded: save one beside the "
            "weights (tokenizer.save_pretrained)"
        ) from error
    return model.to(device).eval(), tokenizer


def check_source(source: str) -> None:
    """Fail at once, and in one sentence, for a name that leads nowhere."""
    if Path(source).is_dir():
        return
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
        raise UserError(
            f"{source!r} is no folder and no run in {runs_folder().resolve()}, and a model on the "
            "hub has a name like org/model: `lumenspark runs` lists the runs"
        )
    if not isinstance(try_to_load_from_cache(source, "config.json"), str):
        reach("model", source)


def _model_class(source: str) -> Any:
    """What loads the model: transformers' Auto class, and for what we have compressed our own code.

    That code lies beside the weights too, but so it need not be run from there, nor trusted.
    """
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    from lumenspark.models import LumensparkForCausalLM, modeling_compressed
    from lumenspark.models.old_checkpoints import is_old_config

    config, _ = PreTrainedConfig.get_config_dict(source)
    if is_old_config(config):  # lumenspark 0.1 need not say there what model it is
        return LumensparkForCausalLM
    code = (config.get("auto_map") or {}).get("AutoModelForCausalLM", "")
    if not (config.get("module_ranks") and code.startswith("modeling_compressed.")):
        return AutoModelForCausalLM
    name = code.removeprefix("modeling_compressed.")
    return getattr(modeling_compressed, name, AutoModelForCausalLM)


def quiet_transformers() -> None:
    """No progress bars for models that load in a blink."""
    from transformers.utils import logging

    logging.disable_progress_bar()
