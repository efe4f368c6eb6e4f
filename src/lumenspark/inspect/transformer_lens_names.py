"""TransformerLens' names of tensors, and ours for the same tensors.

Only names differ: shapes and indices stay ours, so ``blocks.0.attn.hook_q`` is (B, H, T, D) here
and (B, T, H, D) there. Included are the hooks of TransformerLens 3 and the module hooks of 4.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lumenspark.inspect.architectures import Architecture
from lumenspark.models.tensor_names import tensor_names


class Row(NamedTuple):
    """TransformerLens' names of one tensor of ours; L is a block's index.

    ``blocks.L-1.residual`` of block 0 is ``embed``. In models that ``equal_in`` does not cover,
    ours is only the nearest tensor.
    """

    ours: str
    theirs: tuple[str, ...]
    equal_in: str = "all models"


EQUAL_IN: dict[str, Callable[[Architecture], bool]] = {
    "all models": lambda architecture: True,
    "models with rotary positions (Llama)": lambda architecture: architecture.rotary,
    "models with a gated MLP (Lumiére, Llama)": lambda architecture: architecture.sizes.gated,
    "models without a gate (Lumenspark, GPT-2)": lambda architecture: not architecture.sizes.gated,
    "no model": lambda architecture: False,
}
ROTARY, GATED, UNGATED, NONE = list(EQUAL_IN)[1:]

TABLE = (
    Row("embed", ("hook_embed", "embed.hook_out"), ROTARY),
    Row("embed", ("hook_pos_embed", "pos_embed.hook_out"), NONE),
    Row("blocks.L-1.residual", ("blocks.L.hook_resid_pre", "blocks.L.hook_in")),
    Row(
        "blocks.L-1.residual",
        (
            "blocks.L.hook_attn_in",
            "blocks.L.hook_q_input",
            "blocks.L.hook_k_input",
            "blocks.L.hook_v_input",
            "blocks.L.ln1.hook_in",
        ),
        NONE,
    ),
    Row("blocks.L.attention.input", ("blocks.L.ln1.hook_out", "blocks.L.attn.hook_in")),
    Row(
        "blocks.L.attention.input",
        (
            "blocks.L.ln1.hook_scale",
            "blocks.L.ln1.hook_normalized",
            "blocks.L.attn.q.hook_in",
            "blocks.L.attn.k.hook_in",
            "blocks.L.attn.v.hook_in",
        ),
        NONE,
    ),
    Row("blocks.L.attention.query", ("blocks.L.attn.hook_q", "blocks.L.attn.q.hook_out")),
    Row("blocks.L.attention.query", ("blocks.L.attn.hook_rot_q",), NONE),
    Row("blocks.L.attention.key", ("blocks.L.attn.hook_k", "blocks.L.attn.k.hook_out")),
    Row("blocks.L.attention.key", ("blocks.L.attn.hook_rot_k",), NONE),
    Row("blocks.L.attention.value", ("blocks.L.attn.hook_v", "blocks.L.attn.v.hook_out")),
    Row("blocks.L.attention.pattern", ("blocks.L.attn.hook_pattern",)),
    Row("blocks.L.attention.pattern", ("blocks.L.attn.hook_attn_scores",), NONE),
    Row("blocks.L.attention.mixed", ("blocks.L.attn.hook_z", "blocks.L.attn.o.hook_in")),
    Row("blocks.L.attention.heads", ("blocks.L.attn.hook_result",)),
    Row("blocks.L.attention.out", ("blocks.L.hook_attn_out", "blocks.L.attn.hook_out")),
    Row("blocks.L.residual_mid", ("blocks.L.hook_resid_mid",)),
    Row("blocks.L.residual_mid", ("blocks.L.hook_mlp_in", "blocks.L.ln2.hook_in"), NONE),
    Row("blocks.L.mlp.input", ("blocks.L.ln2.hook_out", "blocks.L.mlp.hook_in")),
    Row(
        "blocks.L.mlp.input",
        (
            "blocks.L.ln2.hook_scale",
            "blocks.L.ln2.hook_normalized",
            "blocks.L.mlp.in.hook_in",
            "blocks.L.mlp.gate.hook_in",
        ),
        NONE,
    ),
    Row("blocks.L.mlp.gate", ("blocks.L.mlp.hook_pre", "blocks.L.mlp.gate.hook_out"), GATED),
    Row("blocks.L.mlp.up", ("blocks.L.mlp.hook_pre",), UNGATED),
    Row("blocks.L.mlp.up", ("blocks.L.mlp.hook_pre_linear",), GATED),
    Row("blocks.L.mlp.up", ("blocks.L.mlp.in.hook_out",)),
    Row("blocks.L.mlp.hidden", ("blocks.L.mlp.hook_post", "blocks.L.mlp.out.hook_in")),
    Row(
        "blocks.L.mlp.out",
        ("blocks.L.hook_mlp_out", "blocks.L.mlp.hook_out", "blocks.L.mlp.out.hook_out"),
    ),
    Row("blocks.L.residual", ("blocks.L.hook_resid_post", "blocks.L.hook_out")),
    Row("final_norm", ("ln_final.hook_out", "unembed.hook_in")),
    Row("final_norm", ("ln_final.hook_scale", "ln_final.hook_normalized"), NONE),
    Row("logits", ("unembed.hook_out", "hook_unembed")),
)


def counterparts(architecture: Architecture) -> dict[str, str]:
    """TransformerLens' names of the tensors that have one of ours, and our names of them."""
    return {
        theirs: ours
        for row in TABLE
        if EQUAL_IN[row.equal_in](architecture)
        for theirs, ours in _each_block(row, architecture.sizes.layers)
    }


def nearest_tensors(architecture: Architecture) -> dict[str, str]:
    """TransformerLens' names of tensors that none of ours equals, and the nearest of ours."""
    equal, known = counterparts(architecture), tensor_names(architecture.sizes)
    return {
        theirs: ours
        for row in TABLE
        for theirs, ours in _each_block(row, architecture.sizes.layers)
        if theirs not in equal and ours in known
    }


def _each_block(row: Row, layers: int) -> Iterator[tuple[str, str]]:
    """(their name, our name) of a row, for every block."""
    for theirs in row.theirs:
        if "blocks.L." not in theirs:
            yield theirs, row.ours
            continue
        for layer in range(layers):
            before = f"blocks.{layer - 1}.residual" if layer else "embed"
            ours = row.ours.replace("blocks.L-1.residual", before)
            yield theirs.replace(".L.", f".{layer}."), ours.replace(".L.", f".{layer}.")
