"""What the card says about each model family: the facts that no file of a run states.

Everything with a figure is read from the run. What stands here follows from the architecture
alone, so it is true of every checkpoint whose config names this ``model_type``.
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
                "(`output_hidden_states`); asking for them leaves the logits as they are",
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
            ("Low-rank layers", "Linear layers can go through a few features, W ≈ U Vᵀ"),
            (
                "Low-rank attention",
                "What lies far back can be held in a fixed number of slots, so that time grows in "
                "a straight line with the text and the decode state not at all",
            ),
            ("Prenormalization and LayerScale", "LayerNorm before each sublayer, learned factors"),
        ),
        strengths=(
            ("Long Texts", "Unless attention is dense, memory while writing does not grow"),
            (
                "Interpretability",
                "Returns attention weights from token to token (`output_attentions`), in low-rank "
                "attention those through the slots too",
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
    """The facts for a config's ``model_type``; for one that is not ours, only its name."""
    architecture = f"That of {code(model_type)} in transformers; its documentation says what it is"
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
