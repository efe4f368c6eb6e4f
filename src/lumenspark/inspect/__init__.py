"""Model inspection: inner tensors by name, patching, lenses, and pages that show them.

Start with docs/looking-inside.md. The modules, from a model up to its pages:

- architectures.py: each family's modules by function
- transformer_lens_names.py, selection.py: tensor names; inputs.py: texts and token ids
- model_hooks.py, attention_hooks.py: module hooks; hooks.py: ``tensor_hooks``, used by all below
- trace.py and patch.py: read tensors, change tensors
- logit_lens.py, attribution.py, heads.py, activation_patching.py, ranks.py: analyses
- recording.py: metrics during training
- pages/: HTML pages; notebook.py and plots.py: notebook displays and figures
- transformer_lens_adapter.py: our models in TransformerLens
"""

import lumenspark.inspect.notebook  # noqa: F401  # sets the notebook displays
from lumenspark.inspect.activation_patching import (
    PatchingEffects,
    activation_patching,
    steering_vector,
)
from lumenspark.inspect.architectures import inspect_names
from lumenspark.inspect.attribution import Attribution, attribution
from lumenspark.inspect.heads import HeadScores, ablate_heads, entropy, head_scores, repeated_tokens
from lumenspark.inspect.logit_lens import LogitLens, logit_lens
from lumenspark.inspect.patch import add, mean, patch, replace, zero
from lumenspark.inspect.ranks import HeldToken, effective_ranks, slot_contents
from lumenspark.inspect.trace import Trace, trace

__all__ = [
    "Attribution",
    "HeadScores",
    "HeldToken",
    "LogitLens",
    "PatchingEffects",
    "Trace",
    "ablate_heads",
    "activation_patching",
    "add",
    "attribution",
    "effective_ranks",
    "entropy",
    "head_scores",
    "inspect_names",
    "logit_lens",
    "mean",
    "patch",
    "repeated_tokens",
    "replace",
    "slot_contents",
    "steering_vector",
    "trace",
    "zero",
]
