"""What a name means: a folder goes before a run, a run before the hub."""

from pathlib import Path
from typing import Any

from lumenspark.errors import UserError
from lumenspark.training.run import find_run


def model_source(name: str, checkpoint: str = "best") -> str:
    """The folder or hub id that from_pretrained takes for ``name``.

    ``name`` is a folder (a saved model, or a run's), a run id, the unique beginning of one,
    ``latest``, or a hub id. Raises UserError where a run has no such checkpoint.
    """
    if (Path(name) / "config.json").is_file():
        return name
    run = find_run(name)
    if run is not None:
        return str(run.checkpoint(checkpoint))
    if Path(name).is_dir():
        raise UserError(f"the folder {name} holds neither a model (config.json) nor a run")
    return name


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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import lumenspark.models  # noqa: F401  (makes the Auto classes know ours)

    quiet_transformers()
    source = model_source(name, checkpoint)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name!r} is no folder and no run here, and could not be loaded from the hub "
            f"({reason}); without network, download the model once and give its folder"
            if source == name and not Path(name).is_dir()
            else f"the model in {source} cannot be loaded: {reason}"
        ) from error
    return model.to(device).eval(), tokenizer


def quiet_transformers() -> None:
    """No progress bars for models that load in a blink."""
    from transformers.utils import logging

    logging.disable_progress_bar()
