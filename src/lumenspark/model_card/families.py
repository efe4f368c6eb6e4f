"""Facts in the model card that follow from the architecture (``model_type``) alone.

Everything with a number is read from the run's files instead.
"""

from dataclasses import dataclass

from lumenspark.model_card.markdown import code

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    name: str
    improvements: Facts
    strengths: Facts
    components: Facts


FAMILIES = {
    "lumiere": Family(
        name="Lumiére",
        improvements=(
            (
                "Normalization",
                "RMSNorm (pre-normalization, and once after the last block) instead of LayerNorm",
            ),
            ("Activation", "SwiGLU in feed-forward networks instead of ReLU"),
            (
                "Interpretability",
                "Returns attention weights (`output_attentions`) and intermediate representations "
                "(`output_hidden_states`), without changing the logits",
            ),
        ),
        strengths=(
            ("Interpretability Focus", "Provides attention weights for analysis"),
            ("Modern Architecture", "Incorporates contemporary improvements (RMSNorm, SwiGLU)"),
        ),
        components=(
            ("Attention Mechanism", "Multi-head self-attention with causal masking"),
            ("Position Encoding", "Learned positional embeddings"),
        ),
    ),
    "lumenspark": Family(
        name="Lumenspark",
        improvements=(
            ("Low-rank layers", "Linear layers can be factorised, W ≈ U Vᵀ"),
            (
                "Low-rank attention",
                "A fixed number of slots can summarise distant tokens: time is linear in the "
                "sequence length, and the decode state has constant size",
            ),
            ("Prenormalization and LayerScale", "LayerNorm before each sublayer, learned factors"),
        ),
        strengths=(
            ("Long Texts", "Unless attention is dense, generation takes constant memory"),
            (
                "Interpretability",
                "Returns token-to-token attention weights (`output_attentions`), which include "
                "those through the slots of low-rank attention",
            ),
        ),
        components=(
            ("Attention Mechanism", "Multi-head causal self-attention"),
            ("Activation", "GELU in factorized feed-forward networks"),
            ("Position Encoding", "Learned positional embeddings"),
        ),
    ),
}


def family_of(model_type: str) -> Family:
    """The facts for a ``model_type``; for other architectures, only the name."""
    architecture = f"{code(model_type)} of transformers; see its documentation"
    return FAMILIES.get(
        model_type,
        Family(
            name=model_type,
            improvements=(("Architecture", architecture),),
            strengths=(),
            components=(
                ("Attention Mechanism", "Causal: each token sees itself and earlier ones"),
            ),
        ),
    )
