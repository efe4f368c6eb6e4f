"""Where the parts of a decoder lie in each family's modules, so that one code looks into all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lumenspark.errors import UserError
from lumenspark.models.tensor_names import Shape, TensorSizes, tensor_names


@dataclass(frozen=True)
class Columns:
    """A part of a module's output features: all of them, or a third where one makes q, k and v."""

    module: nn.Module
    begin: int = 0
    end: int | None = None

    def heads(self, output: Tensor, head_dim: int) -> Tensor:
        """Of the module's output (B, T, C) these columns, by head: (B, H, T, D)."""
        return output[..., self.begin : self.end].unflatten(-1, (-1, head_dim)).transpose(1, 2)


@dataclass(frozen=True)
class Block:
    """The modules of one block, by what they do."""

    block: nn.Module  # takes the residual stream and gives it on, first of a tuple or alone
    attention_norm: nn.Module
    attention: nn.Module  # gets the mask and the cache; has scaling and layer_idx
    query: Columns
    key: Columns
    value: Columns
    attention_exit: tuple[nn.Module, ...]  # linear, from the heads' mixed values to the stream
    mlp_norm: nn.Module
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    mlp_exit: nn.Module  # its output is added to the stream


@dataclass(frozen=True)
class Anatomy:
    """A language model's parts."""

    sizes: TensorSizes
    blocks: tuple[Block, ...]
    final_norm: Any
    head: Any  # from the residual stream to logits


def anatomy_of(model: Any) -> Anatomy:
    """The parts of ``model``. Raises UserError for a family that is not known here."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES or not hasattr(model, "lm_head"):
        raise UserError(
            f"a {type(model).__name__} cannot be looked into: give a language model of one of the "
            f"families {', '.join(FAMILIES)}"
        )
    return FAMILIES[family](model)


def inspect_names(model: Any) -> dict[str, Shape]:
    """Every name that :func:`trace` and :func:`patch` know for ``model``, with its shape.

    ``B`` rows, ``T`` tokens that are fed, ``S`` tokens that are known (with a cache more than T).
    Raises UserError for a family that is not known here.
    """
    return tensor_names(anatomy_of(model).sizes)


def lowrank(attention: nn.Module) -> bool:
    """Whether this attention layer has a window and slots."""
    config: Any = attention.config
    return config.model_type == "lumenspark" and config.k is not None


def rotated(
    attention: nn.Module, arguments: dict[str, Any], query: Tensor, key: Tensor
) -> tuple[Tensor, Tensor]:
    """Query and key as they meet: turned by their positions where the family does so (Llama)."""
    turn = arguments.get("position_embeddings")
    if turn is None:
        return query, key
    # Takes a second to import, and whoever has a Llama has imported it already.
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cosine, sine = turn
    query, key = apply_rotary_pos_emb(query, key, cosine, sine)
    return query, key


def _lumiere(model: Any) -> Anatomy:
    blocks = tuple(_llama_block(layer) for layer in model.model.layers)
    return Anatomy(model.config.tensor_sizes, blocks, model.model.norm, model.lm_head)


def _llama(model: Any) -> Anatomy:
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
    return Anatomy(sizes, blocks, model.model.norm, model.lm_head)


def _llama_block(layer: Any) -> Block:
    """Lumiére's blocks have the same parts under the same names."""
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        block=layer,
        attention_norm=layer.input_layernorm,
        attention=attention,
        query=Columns(attention.q_proj),
        key=Columns(attention.k_proj),
        value=Columns(attention.v_proj),
        attention_exit=(attention.o_proj,),
        mlp_norm=layer.post_attention_layernorm,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        mlp_exit=mlp.down_proj,
    )


def _lumenspark(model: Any) -> Anatomy:
    blocks = tuple(_lumenspark_block(layer) for layer in model.model.layers)
    return Anatomy(model.config.tensor_sizes, blocks, model.model.norm, model.lm_head)


def _lumenspark_block(layer: Any) -> Block:
    attention = layer.attention
    return Block(
        block=layer,
        attention_norm=layer.attention_norm,
        attention=attention,
        query=Columns(attention.q_proj),
        key=Columns(attention.k_proj),
        value=Columns(attention.v_proj),
        attention_exit=(attention.o_proj, layer.attention_scale),
        mlp_norm=layer.feed_forward_norm,
        gate=None,
        up=layer.feed_forward.up_proj,
        down=layer.feed_forward.down_proj,
        mlp_exit=layer.feed_forward_scale,
    )


def _gpt2(model: Any) -> Anatomy:
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
    return Anatomy(sizes, blocks, model.transformer.ln_f, model.lm_head)


def _gpt2_block(layer: Any, width: int) -> Block:
    attention, mlp = layer.attn, layer.mlp
    return Block(
        block=layer,
        attention_norm=layer.ln_1,
        attention=attention,
        query=Columns(attention.c_attn, 0, width),
        key=Columns(attention.c_attn, width, 2 * width),
        value=Columns(attention.c_attn, 2 * width, 3 * width),
        attention_exit=(attention.c_proj,),
        mlp_norm=layer.ln_2,
        gate=None,
        up=mlp.c_fc,
        down=mlp.c_proj,
        mlp_exit=mlp.c_proj,
    )


FAMILIES: dict[str, Callable[[Any], Anatomy]] = {
    "lumiere": _lumiere,
    "lumenspark": _lumenspark,
    "gpt2": _gpt2,
    "llama": _llama,
}
