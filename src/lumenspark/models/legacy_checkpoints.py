"""Checkpoints of lumenspark 0.1.x: recognition, and conversion to the current model.

In 0.1.x attention was dense for any ``k``, its four projections had biases, the feed-forward
layers were low-rank, and the output layer was untied, with a bias. Everything ran in float32, with
GPT-2's tokenizer. Its low-rank layers applied ``U`` first: the old ``U.weight`` (R, in) is the
current ``V.weight``, the old ``V.weight`` (out, R) the current ``U.weight``.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Tokenizer, PreTrainedConfig
from transformers.utils import cached_file

from .config_checks import MOST, quoted
from .lowrank_linear import highest_rank

if TYPE_CHECKING:
    from .configuration_lumenspark import LumensparkConfig

# The keys of its config.json that describe the model. It also had ``k``, without effect.
OLD_KEYS = ("seq_length", "vocab_size", "embed_dim", "depth", "heads", "dropout", "rank")
ATTENTION = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "output_transform": "o_proj",
}
FEED_FORWARD = {"ffn.0": "up_proj", "ffn.3": "down_proj"}
NORMS = {"norm1": "attention_norm", "norm2": "feed_forward_norm"}
SCALES = {"layer_scale_attn": "attention_scale", "layer_scale_ffn": "feed_forward_scale"}
WEIGHTS = "model.safetensors"
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
GPT2_END = 50256
GPT2_NAMES = ("openai-community/gpt2", "gpt2")  # the second is the older name
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2_PROBE = [32, 2420]  # the ids of "A text"
MOST_LAYERS = 10_000  # far more than any model; the config lists each


def is_old_config(content: Mapping[str, Any]) -> bool:
    """Whether this is the content of an old config.json, which has no ``projection``."""
    return "projection" not in content and all(key in content for key in OLD_KEYS)


def translate_config(old: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an old config.json as arguments of ``LumensparkConfig``.

    A feed-forward rank that saves no parameters, which 0.1.x allowed, becomes a dense layer.

    Raises ValueError for invalid sizes.
    """
    for key in ("seq_length", "vocab_size", "embed_dim", "depth", "heads", "rank"):
        if type(old[key]) is not int or not 1 <= old[key] <= MOST:
            raise ValueError(f"{key} is {quoted(old[key])} in config.json: it must be 1 or more")
    if old["depth"] > MOST_LAYERS:
        raise ValueError(f"depth is {old['depth']} in config.json: the most is {MOST_LAYERS}")
    width, rank = old["embed_dim"], old["rank"]
    feed_forward = rank if rank <= highest_rank(width, 4 * width) else None
    ranks: dict[str, int | None] = {}
    for layer in range(old["depth"]):
        block = f"model.layers.{layer}"
        ranks |= {f"{block}.attention.{part}": None for part in ATTENTION.values()}
        ranks |= {f"{block}.feed_forward.{part}": feed_forward for part in FEED_FORWARD.values()}
    end = GPT2_END if old["vocab_size"] > GPT2_END else None
    return {
        **{key: old[key] for key in OLD_KEYS},
        "k": None,
        "rank": rank if rank <= highest_rank(width, width) else None,
        "module_ranks": ranks,
        "attention_bias": True,
        "head_bias": True,
        "tie_word_embeddings": False,
        "layer_scale": 0.01,
        "bos_token_id": end,
        "eos_token_id": end,
        "dtype": "float32",
    }


def has_gpt2_vocabulary(config: Any) -> bool:
    """Whether this is the config of an old checkpoint with GPT-2's 50,257 tokens."""
    if config.model_type != "lumenspark" or config.vocab_size != GPT2_END + 1:
        return False
    biases = config.attention_bias and config.head_bias
    return config.k is None and biases and not config.tie_word_embeddings


def gpt2_tokenizer() -> Any:
    """GPT-2's tokenizer, which 0.1.x used and never saved: from the hub's cache, else the hub.

    Raises ValueError if neither has it.
    """
    for name in GPT2_NAMES:
        for revision in (GPT2_REVISION, None):
            if (found := _read_gpt2(name, revision, local_files_only=True)) is not None:
                return found
    found = _read_gpt2(GPT2_NAMES[0], GPT2_REVISION)
    if found is None:
        raise ValueError(
            "this checkpoint of lumenspark 0.1 has no tokenizer and needs that of GPT-2, "
            f"which is not in the cache and cannot be downloaded now: run `hf download "
            f"{GPT2_NAMES[0]} vocab.json merges.txt` once with a network, or save one beside it"
        )
    return found


def _read_gpt2(name: str, revision: str | None, **hub: Any) -> Any:
    """The tokenizer of a hub repository if it exists and is GPT-2's, else None."""
    try:
        tokenizer = GPT2Tokenizer.from_pretrained(name, revision=revision, **hub)
        is_gpt2 = len(tokenizer) == GPT2_END + 1
        return tokenizer if is_gpt2 and tokenizer("A text")["input_ids"] == GPT2_PROBE else None
    except Exception:  # an incomplete cache or a broken network can raise anything
        return None


def read_old_config(name: Any, **hub: Any) -> dict[str, Any] | None:
    """The content of config.json in a folder or hub repository if it is an old one, else None.

    ``hub``: the :data:`HUB_ARGUMENTS` that were passed to ``from_pretrained``.
    """
    try:
        content, _ = PreTrainedConfig.get_config_dict(name, **hub)
    except OSError:  # a missing config is reported where it is needed
        return None
    return content if is_old_config(content) else None


def read_old_weights(name: Any, config: "LumensparkConfig", **hub: Any) -> dict[str, Tensor]:
    """The tensors of an old checkpoint under the names of ``LumensparkForCausalLM``.

    Raises OSError if there is no model.safetensors, and ValueError for missing, unknown or
    misshapen tensors, and for a ``config`` that is not one of 0.1.x.
    """
    folder = Path(name) / hub.get("subfolder", "")
    if folder.is_dir() and not (folder / WEIGHTS).is_file():
        raise OSError(
            f"there is no {WEIGHTS} in {folder}: save the weights as safetensors, because a "
            "pytorch_model.bin is a pickle, which may run code when it is read"
        )
    return translate_weights(load_file(cached_file(name, WEIGHTS, **hub)), config)


def translate_weights(old: Mapping[str, Tensor], config: "LumensparkConfig") -> dict[str, Tensor]:
    """As :func:`read_old_weights`, from the old tensors by name."""
    _check_config(config)
    names, factors = _names(config), _factors(config)
    expected = {*names, *(f"{layer}.{part}.weight" for layer in factors for part in "UV")}
    if expected - old.keys():
        raise ValueError(f"the old checkpoint has no {_listed(expected - old.keys())}")
    if old.keys() - expected:
        raise ValueError(
            f"the old checkpoint holds {_listed(old.keys() - expected)}, which lumenspark 0.1 "
            "never had"
        )
    new = {}
    for name, (new_name, shape) in names.items():
        _check_shape(name, old[name], shape)
        new[new_name] = old[name]
    for name, (new_name, features_in, features_out) in factors.items():
        first, second = old[f"{name}.U.weight"], old[f"{name}.V.weight"]
        rank = config.rank_of(new_name)
        inner = rank or first.numel() // features_in
        _check_shape(f"{name}.U.weight", first, (inner, features_in))
        _check_shape(f"{name}.V.weight", second, (features_out, inner))
        if rank is None:
            new[f"{new_name}.weight"] = (second.float() @ first.float()).to(second.dtype)
        else:
            new |= {f"{new_name}.V.weight": first, f"{new_name}.U.weight": second}
    return new


def _names(config: "LumensparkConfig") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Old names to new names and shapes, for all tensors but the feed-forward layers."""
    vocabulary, width = config.vocab_size, config.embed_dim
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embedding.weight": ("model.embed_tokens.weight", (vocabulary, width)),
        "position_embedding.weight": ("model.embed_positions.weight", (config.seq_length, width)),
        "final_norm.weight": ("model.norm.weight", (width,)),
        "final_norm.bias": ("model.norm.bias", (width,)),
        "fc_out.weight": ("lm_head.weight", (vocabulary, width)),
        "fc_out.bias": ("lm_head.bias", (vocabulary,)),
    }
    for layer in range(config.depth):
        old, new = f"layers.{layer}", f"model.layers.{layer}"
        for part, today in ATTENTION.items():
            linear = f"{new}.attention.{today}"
            names[f"{old}.attn.{part}.weight"] = (f"{linear}.weight", (width, width))
            names[f"{old}.attn.{part}.bias"] = (f"{linear}.bias", (width,))
        for part, today in NORMS.items():
            names[f"{old}.{part}.weight"] = (f"{new}.{today}.weight", (width,))
            names[f"{old}.{part}.bias"] = (f"{new}.{today}.bias", (width,))
        for part, today in SCALES.items():
            names[f"{old}.{part}"] = (f"{new}.{today}.scale", (width,))
    return names


def _factors(config: "LumensparkConfig") -> dict[str, tuple[str, int, int]]:
    """The feed-forward layers: old names to new names, input and output features."""
    width = config.embed_dim
    features = {"ffn.0": (width, 4 * width), "ffn.3": (4 * width, width)}
    return {
        f"layers.{layer}.{part}": (f"model.layers.{layer}.feed_forward.{today}", *features[part])
        for layer in range(config.depth)
        for part, today in FEED_FORWARD.items()
    }


def _check_config(config: "LumensparkConfig") -> None:
    """Raises ValueError for a config that old weights do not fit."""
    projections = (
        f"model.layers.{layer}.attention.{part}"
        for layer in range(config.depth)
        for part in ATTENTION.values()
    )
    dense = all(config.rank_of(name) is None for name in projections)
    if config.tie_word_embeddings or not (dense and config.attention_bias and config.head_bias):
        raise ValueError(
            "this config does not describe a checkpoint of lumenspark 0.1: use the one that "
            "LumensparkConfig.from_pretrained reads from its folder"
        )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} of the old checkpoint has the shape {tuple(tensor.shape)}: by its config.json "
            f"it should be {shape}"
        )


def _listed(names: Collection[str]) -> str:
    """The first three names, and the number of the others."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
