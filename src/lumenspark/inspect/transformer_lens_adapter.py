"""Lumiére and Lumenspark in TransformerLens: where it finds what it has names for.

TransformerLens 4 (https://github.com/TransformerLensOrg/TransformerLens) learns of these adapters
by the entry points ``transformer_lens.architectures`` of this package. A model in memory::

    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(
        model, "LumiereForCausalLM", hf_config=model.config, tokenizer=tokenizer
    )

``boot_transformers``, which reads a folder, asks whether it knows a model before it asks the entry
points (4.3), so they have to be asked before it, once in a program::

    from transformer_lens import TransformerBridge
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    ArchitectureAdapterFactory.discover_entry_points()
    bridge = TransformerBridge.boot_transformers("runs/k3v9x2mq/checkpoints/best")

Whatever else asks them does as well: ``build_bridge_from_module``, or importing this module.

Either way the logits are those of the model to float error, and hooks act: a changed
``hook_pattern`` changes the output. A model in memory is taken apart in place, as TransformerLens
does with every model; give it a ``copy.deepcopy`` of one that you want to go on with.

Nothing else here imports this module: it needs the extra ``transformer-lens``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    DelegatedAttentionBlockBridge,
    EmbeddingBridge,
    LinearBridge,
    NormalizationBridge,
    PosEmbedBridge,
    PositionEmbeddingsAttentionBridge,
    RMSNormalizationBridge,
    UnembeddingBridge,
)

import lumenspark.models  # noqa: F401  # so that transformers knows our configs and models
from lumenspark.errors import UserError
from lumenspark.models.lowrank_attention_map import lowrank_attention_map


class DenseAttention(PositionEmbeddingsAttentionBridge):
    """Dense attention, step by step with a hook at each; our blocks give arguments by place."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        past_key_values: Any = None,
        output_attentions: bool = False,
    ) -> Any:
        return super().forward(
            hidden_states, attention_mask=attention_mask, past_key_values=past_key_values
        )


class LowRankAttention(AttentionBridge):
    """Low-rank attention by its token-to-token weights, which take O(T²): ``hook_pattern``.

    The softmax is over slots and near tokens together, so there are no scores of single tokens.
    """

    supports_split_qkv_fork = False

    def __init__(self, name: str, config: Any, submodules: dict[str, Any]) -> None:
        super().__init__(name, config, submodules)
        del self.hook_attn_scores  # a hook that never fires would be worse than none
        del self._hook_registry["hook_attn_scores"]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Raises UserError where a cache is given, and for several texts in one row."""
        if past_key_values is not None:
            raise UserError(
                "in TransformerLens low-rank attention reads the whole text at each step: give no "
                "cache, and generate by bridge.generate, or with use_cache=False"
            )
        if isinstance(attention_mask, list):
            raise UserError(
                "in TransformerLens low-rank attention reads one text a row: leave position_ids out"
            )
        attention: Any = self.original_component
        hidden = self.hook_in(hidden_states)
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        pattern = lowrank_attention_map(query, key, attention.lowrank_settings, attention_mask)
        pattern = self.hook_pattern(pattern)
        mixed = (pattern @ value).transpose(1, 2).flatten(2)
        return self.hook_out(self.o(mixed)), pattern


class LumiereAdapter(ArchitectureAdapter):
    """``LumiereForCausalLM``."""

    _attention_bridge_cls = DenseAttention

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        cfg.normalization_type = "RMS"
        cfg.uses_rms_norm = cfg.final_rms = True
        cfg.positional_embedding_type = "standard"
        cfg.gated_mlp = True
        cfg.act_fn = "silu"
        cfg.attn_implementation = "eager"  # the kind of mask that DenseAttention takes
        self.weight_processing_conversions = {**self._qkvo_weight_conversions()}
        self.component_mapping = {
            "embed": EmbeddingBridge("model.embed_tokens"),
            "pos_embed": PosEmbedBridge("model.embed_positions"),
            "blocks": BlockBridge(
                "model.layers",
                config=cfg,
                submodules={
                    "ln1": RMSNormalizationBridge("input_layernorm", cfg),
                    "attn": self._build_attention_bridge(),
                    "ln2": RMSNormalizationBridge("post_attention_layernorm", cfg),
                    "mlp": self._gated_mlp(),
                },
            ),
            "ln_final": RMSNormalizationBridge("model.norm", cfg),
            "unembed": UnembeddingBridge("lm_head", cfg),
        }

    def prepare_model(self, hf_model: Any) -> None:
        """Low-rank layers become dense ones that compute the same, because W_Q, … are read."""
        super().prepare_model(hf_model)
        make_dense(hf_model)
        self.cfg.d_mlp = hf_model.config.gated_size
        for block in hf_model.model.layers:
            block.self_attn.attention_dropout = hf_model.config.dropout  # is looked for there


class LumensparkAdapter(ArchitectureAdapter):
    """``LumensparkForCausalLM``, with dense and with low-rank attention."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        cfg.normalization_type = "LN"
        cfg.uses_rms_norm = cfg.final_rms = False
        cfg.positional_embedding_type = "standard"
        cfg.gated_mlp = False
        cfg.act_fn = "gelu"
        cfg.attn_implementation = "eager"  # the kind of mask that DenseAttention takes
        self.weight_processing_conversions = {**self._qkvo_weight_conversions()}
        self.component_mapping = {
            "embed": EmbeddingBridge("model.embed_tokens"),
            "pos_embed": PosEmbedBridge("model.embed_positions"),
            "blocks": self._blocks(BlockBridge, DenseAttention),
            "ln_final": self._norm("model.norm"),
            "unembed": UnembeddingBridge("lm_head", cfg),
        }

    def prepare_model(self, hf_model: Any) -> None:
        """Low-rank layers become dense ones, and LayerScale a part of their weights.

        So W_Q, … can be read, and a head times W_O is what it adds to the residual stream. The
        model computes the same as before.
        """
        super().prepare_model(hf_model)
        make_dense(hf_model)
        for block in hf_model.model.layers:
            fold_scale(block.attention.o_proj, block.attention_scale)
            fold_scale(block.feed_forward.down_proj, block.feed_forward_scale)
        if hf_model.config.k is not None:
            self.components["blocks"] = self._blocks(
                DelegatedAttentionBlockBridge, LowRankAttention
            )
            self.supports_kv_cache = False
            hf_model.config.use_cache = False  # or each forward pass would make one

    def _blocks(self, block: type[BlockBridge], attention: type[AttentionBridge]) -> BlockBridge:
        projections: dict[str, Any] = {part: LinearBridge(f"{part}_proj") for part in "qkvo"}
        return block(
            "model.layers",
            config=self.cfg,
            submodules={
                "ln1": self._norm("attention_norm"),
                "attn": attention("attention", self.cfg, projections),
                "ln2": self._norm("feed_forward_norm"),
                "mlp": self._ungated_mlp("feed_forward"),
            },
        )

    def _norm(self, name: str) -> NormalizationBridge:
        return NormalizationBridge(name, self.cfg, use_native_layernorm_autograd=True)


def make_dense(model: nn.Module) -> None:
    """Replace each low-rank layer by the dense one that computes the same."""
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "to_dense"):  # by name: code beside the weights has classes of its own
            model.set_submodule(name, layer.to_dense())


@torch.no_grad()
def fold_scale(linear: nn.Linear, layer_scale: Any) -> None:
    """Multiply a LayerScale into the layer before it."""
    linear.weight.mul_(layer_scale.scale[:, None])
    if linear.bias is not None:
        linear.bias.mul_(layer_scale.scale)
    layer_scale.scale.fill_(1.0)


SUPPORTED_ARCHITECTURES.setdefault("LumiereForCausalLM", LumiereAdapter)
SUPPORTED_ARCHITECTURES.setdefault("LumensparkForCausalLM", LumensparkAdapter)
