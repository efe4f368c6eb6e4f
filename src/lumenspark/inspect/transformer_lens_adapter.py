"""TransformerLens adapters for Lumiére and Lumenspark.

TransformerLens 4 (https://github.com/TransformerLensOrg/TransformerLens) discovers these adapters
through this package's entry points ``transformer_lens.architectures``. For a model in memory::

    from transformer_lens.model_bridge.sources import build_bridge_from_module

    bridge = build_bridge_from_module(
        model, "LumiereForCausalLM", hf_config=model.config, tokenizer=tokenizer
    )

``boot_transformers``, which reads a folder, checks the architecture before it discovers entry
points (4.3), so discover them first, once per program::

    from transformer_lens import TransformerBridge
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory

    ArchitectureAdapterFactory.discover_entry_points()
    bridge = TransformerBridge.boot_transformers("runs/k3v9x2mq/checkpoints/best")

Calling ``build_bridge_from_module`` or importing this module works too.

Either way the logits equal the model's within float error, and hooks take effect: a changed
``hook_pattern`` changes the output. As with every model, TransformerLens modifies a model in memory
in place: pass a ``copy.deepcopy`` if you still need the original.

No other module imports this one: it needs the extra ``transformer-lens``.
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

import lumenspark.models  # noqa: F401  # registers our configs and models with transformers
from lumenspark.errors import UserError
from lumenspark.models.lowrank_attention_map import lowrank_attention_map


class DenseAttention(PositionEmbeddingsAttentionBridge):
    """Dense attention with hooks at each step; our blocks pass arguments by position."""

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
    """Low-rank attention computed from its token-to-token weights, in O(T²): ``hook_pattern``.

    There are no scores by token: the softmax is over slots and near tokens together.
    """

    supports_split_qkv_fork = False

    def __init__(self, name: str, config: Any, submodules: dict[str, Any]) -> None:
        super().__init__(name, config, submodules)
        del self.hook_attn_scores  # it would never fire
        del self._hook_registry["hook_attn_scores"]

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Raises UserError if a cache is given, and for packed texts."""
        if past_key_values is not None:
            raise UserError(
                "in TransformerLens, low-rank attention reads the whole text at each step: give no "
                "cache, and generate with bridge.generate or use_cache=False"
            )
        if isinstance(attention_mask, list):
            raise UserError(
                "in TransformerLens low-rank attention takes one text per row: omit position_ids"
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
        cfg.attn_implementation = "eager"  # the mask format of DenseAttention
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
        """Replace low-rank layers by equivalent dense ones, since TransformerLens reads W_Q, …"""
        super().prepare_model(hf_model)
        make_dense(hf_model)
        self.cfg.d_mlp = hf_model.config.gated_size
        for block in hf_model.model.layers:
            block.self_attn.attention_dropout = hf_model.config.dropout  # read by the bridge


class LumensparkAdapter(ArchitectureAdapter):
    """``LumensparkForCausalLM``, with dense and with low-rank attention."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        cfg.normalization_type = "LN"
        cfg.uses_rms_norm = cfg.final_rms = False
        cfg.positional_embedding_type = "standard"
        cfg.gated_mlp = False
        cfg.act_fn = "gelu"
        cfg.attn_implementation = "eager"  # the mask format of DenseAttention
        self.weight_processing_conversions = {**self._qkvo_weight_conversions()}
        self.component_mapping = {
            "embed": EmbeddingBridge("model.embed_tokens"),
            "pos_embed": PosEmbedBridge("model.embed_positions"),
            "blocks": self._blocks(BlockBridge, DenseAttention),
            "ln_final": self._norm("model.norm"),
            "unembed": UnembeddingBridge("lm_head", cfg),
        }

    def prepare_model(self, hf_model: Any) -> None:
        """Replace low-rank layers by equivalent dense ones, and fold LayerScale into them.

        TransformerLens can then read W_Q, …, and a head's output times W_O is its contribution to
        the residual stream. The model's outputs do not change.
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
            hf_model.config.use_cache = False  # else each forward pass creates one

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
    """Replace each low-rank layer by the equivalent dense one."""
    for name, layer in list(model.named_modules()):
        if hasattr(layer, "to_dense"):  # duck-typed: remote code has its own classes
            model.set_submodule(name, layer.to_dense())


@torch.no_grad()
def fold_scale(linear: nn.Linear, layer_scale: Any) -> None:
    """Fold a LayerScale into the preceding layer."""
    linear.weight.mul_(layer_scale.scale[:, None])
    if linear.bias is not None:
        linear.bias.mul_(layer_scale.scale)
    layer_scale.scale.fill_(1.0)


SUPPORTED_ARCHITECTURES.setdefault("LumiereForCausalLM", LumiereAdapter)
SUPPORTED_ARCHITECTURES.setdefault("LumensparkForCausalLM", LumensparkAdapter)
