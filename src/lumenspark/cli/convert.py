"""lumenspark convert: convert a checkpoint of lumenspark 0.1 to the current format."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from lumenspark.cli.parsing import default, parse
from lumenspark.errors import UserError, reading

if TYPE_CHECKING:
    from lumenspark.models import LumensparkForCausalLM


TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}


@dataclass
class Arguments:
    """Convert a checkpoint of lumenspark 0.1 to the current format. Logits stay the same, except
    with --attention-rank or --k.
    """

    old: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OLD")]
    """Checkpoint of lumenspark 0.1: a folder or a hub id."""
    new: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="NEW")]
    """Folder to write: new or empty."""
    attention_rank: Annotated[int | None, default("dense")] = None
    """Rank of the attention's linear layers, by truncated SVD."""
    k: Annotated[int | None, default("dense attention")] = None
    """Slots per head of low-rank attention; the model needs training afterwards."""
    window: Annotated[int | None, default("64")] = None
    """With --k: block size in tokens; a token attends exactly to its block and the previous one."""
    tokenizer: Annotated[str | None, default("the one in OLD")] = None
    """Folder or hub id of the tokenizer."""
    revision: Annotated[str | None, default("main")] = None
    """Commit, branch or tag of a hub checkpoint; OLD@REVISION works too."""


def main(arguments: list[str]) -> None:
    options = parse(Arguments, "convert", arguments)
    if options.window is not None and options.k is None:
        raise UserError("--window needs --k: it sets the block size of low-rank attention")
    from lumenspark.files import new_folder
    from lumenspark.quiet import quiet_transformers

    quiet_transformers()
    with new_folder(options.new) as folder:
        source, model = _load(options)
        tokenizer = _find_tokenizer(options, source, model.config.vocab_size)
        if options.k is not None:
            model = _with_slots(model, options.k, options.window)
        rank = options.attention_rank
        errors = {} if rank is None else _factorise_attention(model, rank)
        _save(folder, model, tokenizer)
    if errors:
        _print_errors(errors, rank)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.new}: {parameters:,} parameters, context {model.config.seq_length}")
    if tokenizer is None:
        print(f"{options.old} has no tokenizer, so none was written: give --tokenizer")
    if options.k:
        print("The slot projection is newly initialised: train the model before use.")
    elif options.k == 0:
        print("The model was trained with full attention: train it before use.")


def _load(options: Arguments) -> "tuple[Path, LumensparkForCausalLM]":
    """The folder of the old checkpoint, and the model with its weights."""
    from lumenspark.loading import load_model, locate
    from lumenspark.model_folder import open_model_folder
    from lumenspark.models import LumensparkForCausalLM
    from lumenspark.models.legacy_checkpoints import OLD_KEYS, is_old_config
    from lumenspark.quiet import quiet

    name = options.old
    folder, _ = locate(name, revision=options.revision)
    source = open_model_folder(folder)
    missing = [key for key in OLD_KEYS if key not in source.config]
    if missing:
        raise UserError(
            f"{name} is not a checkpoint of lumenspark 0.1: its config.json lacks "
            f"{', '.join(missing)}"
        )
    if not is_old_config(source.config):
        raise UserError(f"{name} is in the current format already: load it directly")
    with quiet():
        return folder, load_model(source, model_class=LumensparkForCausalLM)


def _find_tokenizer(options: Arguments, source: Path, vocab_size: int) -> Any | None:
    """The tokenizer of ``--tokenizer``, else the one beside the weights; None if neither exists."""
    from lumenspark.data.tokenizer import load_tokenizer

    name = options.tokenizer or str(source)
    files = {path.name for path in Path(name).glob("*")}
    if not TOKENIZER_FILES & files and options.tokenizer is None:
        return None
    if not TOKENIZER_FILES & files and files:
        raise UserError(
            f"{name} has no tokenizer: give a folder with tokenizer.json, or with GPT-2's "
            "vocab.json and merges.txt"
        )
    if {"vocab.json", "merges.txt"} <= files and "tokenizer_config.json" not in files:
        tokenizer = _as_gpt2(Path(name))
    else:
        tokenizer = load_tokenizer(name)
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"the tokenizer in {name} has {len(tokenizer)} tokens, the model {vocab_size}: give "
            "the one it was trained with (--tokenizer)"
        )
    return tokenizer


def _as_gpt2(folder: Path) -> Any:
    """The tokenizer of a folder with GPT-2's vocab.json and merges.txt."""
    from transformers import GPT2Tokenizer

    from lumenspark.model_folder import check_files
    from lumenspark.quiet import quiet

    check_files(folder)
    with quiet(), reading(f"the tokenizer in {folder}", "give another one with --tokenizer"):
        return GPT2Tokenizer.from_pretrained(folder, local_files_only=True)


def _with_slots(
    model: "LumensparkForCausalLM", k: int, window: int | None
) -> "LumensparkForCausalLM":
    """The same weights with low-rank attention; the slot projection is newly initialised."""
    import torch

    from lumenspark.memory import FLOAT32, check_memory, on_meta, parameter_count
    from lumenspark.models import LumensparkConfig, LumensparkForCausalLM

    settings = {"k": k} if window is None else {"k": k, "window": window}
    with reading(f"--k {k}", "give a smaller one"):
        try:
            config = LumensparkConfig.from_dict(model.config.to_dict() | settings)
        except ValueError as error:
            raise UserError(str(error)) from error
        needed = FLOAT32 * parameter_count(on_meta(lambda: LumensparkForCausalLM(config)))
    check_memory(needed, f"a model with --k {k}", "cpu", "give a smaller one")
    torch.manual_seed(0)
    low_rank = LumensparkForCausalLM(config)
    low_rank.load_state_dict(model.state_dict(), strict=False)
    low_rank.generation_config = model.generation_config
    return low_rank


def _factorise_attention(model: "LumensparkForCausalLM", rank: int) -> dict[str, float]:
    """Replace the attention's dense layers by low-rank ones. Returns relative errors by name."""
    from lumenspark.models.lowrank_linear import LowRankLinear

    ranks = model.config.module_ranks
    errors = {}
    for name in [name for name in ranks if ".attention." in name]:
        try:
            layer, errors[name] = LowRankLinear.from_dense(model.get_submodule(name), rank)
        except ValueError as error:
            raise UserError(f"--attention-rank: {error}") from error
        model.set_submodule(name, layer)
        ranks[name] = rank
    return errors


def _save(folder: Path, model: "LumensparkForCausalLM", tokenizer: Any | None) -> None:
    from safetensors import SafetensorError

    try:
        model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        raise UserError(f"the weights cannot be written ({error}): free some disk space") from error


def _print_errors(errors: dict[str, float], rank: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("layer")
    table.add_column("rank", justify="right")
    table.add_column("relative error", justify="right")
    for name, error in errors.items():
        table.add_row(name, str(rank), f"{error:.4f}")
    Console(highlight=False).print(table)
