"""Supported architectures: the modules of each family, by function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.models.tensor_names import Shape, TensorSizes, tensor_names


@dataclass(frozen=True)
class Columns:
    """A range of a module's output features: all, or a third of a fused q, k and v projection."""

    module: nn.Module
    begin: int = 0
    end: int | None = None

    def heads(self, output: Tensor, head_dim: int) -> Tensor:
        """These columns of the module's output (B, T, C), by head: (B, H, T, D)."""
        return output[..., self.begin : self.end].unflatten(-1, (-1, head_dim)).transpose(1, 2)


@dataclass(frozen=True)
class Block:
    """The modules of one block, by function."""

    block: nn.Module  # residual stream in; residual stream out, alone or first of a tuple
    attention_norm: nn.Module
    attention: nn.Module  # receives the mask and the cache; has scaling and layer_idx
    query: Columns
    key: Columns
    value: Columns
    attention_output: tuple[nn.Module, ...]  # linear: mixed values of all heads -> stream
    mlp_norm: nn.Module
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    mlp_output: nn.Module  # its output is added to the stream


@dataclass(frozen=True)
class Architecture:
    """The parts of a language model."""

    sizes: TensorSizes
    blocks: tuple[Block, ...]
    final_norm: Any
    head: Any  # final norm's output -> logits
    rotary: bool = False  # else positions are added to the token embeddings


def architecture_of(model: Any) -> Architecture:
    """The parts of ``model``. Raises UserError for an unsupported architecture."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES or not hasattr(model, "lm_head"):
        raise UserError(
            f"a {type(model).__name__} cannot be inspected: pass a language model of one of the "
            f"families {', '.join(FAMILIES)}"
        )
    return FAMILIES[family](model)


def inspect_names(model: Any) -> dict[str, Shape]:
    """The name and shape of every tensor that :func:`trace` and :func:`patch` reach in ``model``.

    ``B`` rows, ``T`` input tokens, ``S`` tokens attended to (with a cache, more than T).
    Raises UserError for an unsupported architecture.
    """
    return tensor_names(architecture_of(model).sizes)


def lowrank(attention: nn.Module) -> bool:
    """Whether this attention layer is low-rank: a window and slots."""
    config: Any = attention.config
    return config.model_type == "lumenspark" and config.k is not None


def apply_rotary(
    attention: nn.Module, arguments: dict[str, Any], query: Tensor, key: Tensor
) -> tuple[Tensor, Tensor]:
    """Query and key after rotary position embedding, if the model has one (Llama)."""
    rotation = arguments.get("position_embeddings")
    if rotation is None:
        return query, key
    # Slow to import, and already imported wherever there is a Llama.
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cosine, sine = rotation
    query, key = apply_rotary_pos_emb(query, key, cosine, sine)
    return query, key


def _lumiere(model: Any) -> Architecture:
    blocks = tuple(_llama_block(layer) for layer in model.model.layers)
    return Architecture(model.config.tensor_sizes, blocks, model.model.norm, model.lm_head)


def _llama(model: Any) -> Architecture:
    config = model.config
    sizes = TensorSizes(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        units=config.intermediate_size,
        vocabulary=config.vocab_size,
        gated=True,
    )
    blocks = tuple(_llama_block(layer) for layer in model.model.layers)
    return Architecture(sizes, blocks, model.model.norm, model.lm_head, rotary=True)


def _llama_block(layer: Any) -> Block:
    """Lumiére's blocks have the same module names."""
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        block=layer,
        attention_norm=layer.input_layernorm,
        attention=attention,
        query=Columns(attention.q_proj),
        key=Columns(attention.k_proj),
        value=Columns(attention.v_proj),
        attention_output=(attention.o_proj,),
        mlp_norm=layer.post_attention_layernorm,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        mlp_output=mlp.down_proj,
    )


def _lumenspark(model: Any) -> Architecture:
    blocks = tuple(_lumenspark_block(layer) for layer in model.model.layers)
    return Architecture(model.config.tensor_sizes, blocks, model.model.norm, model.lm_head)


def _lumenspark_block(layer: Any) -> Block:
    attention = layer.attention
    return Block(
        block=layer,
        attention_norm=layer.attention_norm,
        attention=attention,
        query=Columns(attention.q_proj),
        key=Columns(attention.k_proj),
        value=Columns(attention.v_proj),
        attention_output=(attention.o_proj, layer.attention_scale),
        mlp_norm=layer.feed_forward_norm,
        gate=None,
        up=layer.feed_forward.up_proj,
        down=layer.feed_forward.down_proj,
        mlp_output=layer.feed_forward_scale,
    )


def _gpt2(model: Any) -> Architecture:
    config = model.config
    sizes = TensorSizes(
        layers=config.n_layer,
        heads=config.n_head,
        key_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        width=config.n_embd,
        units=config.n_inner or 4 * config.n_embd,
        vocabulary=config.vocab_size,
    )
    blocks = tuple(_gpt2_block(layer, config.n_embd) for layer in model.transformer.h)
    return Architecture(sizes, blocks, model.transformer.ln_f, model.lm_head)


def _gpt2_block(layer: Any, width: int) -> Block:
    attention, mlp = layer.attn, layer.mlp
    return Block(
        block=layer,
        attention_norm=layer.ln_1,
        attention=attention,
        query=Columns(attention.c_attn, 0, width),
        key=Columns(attention.c_attn, width, 2 * width),
        value=Columns(attention.c_attn, 2 * width, 3 * width),
        attention_output=(attention.c_proj,),
        mlp_norm=layer.ln_2,
        gate=None,
        up=mlp.c_fc,
        down=mlp.c_proj,
        mlp_output=mlp.c_proj,
    )


FAMILIES: dict[str, Callable[[Any], Architecture]] = {
    "lumiere": _lumiere,
    "lumenspark": _lumenspark,
    "gpt2": _gpt2,
    "llama": _llama,
}
