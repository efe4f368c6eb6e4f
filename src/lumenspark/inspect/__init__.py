"""Looking inside: inner tensors by name, patches, lenses, and pages that show them.

docs/looking-inside.md is the way in. Where things are, from the modules of a model to its pages:

- anatomy.py: where each family has its parts; selection.py and inputs.py: names, texts and ids
- taps.py, attention_taps.py, tapped.py: the hooks; everything below goes through ``tapped``
- trace.py and patch.py: to look, and to change
- lens.py, heads.py, experiments.py, ranks.py: what to make of it; recording.py: during training
- contents.py and pages/: what a page shows, and how; notebook.py and plots.py: the same elsewhere
- transformer_lens_adapter.py: for TransformerLens alone
"""

from lumenspark.inspect.activation_patching import (
    PatchingEffects,
    activation_patching,
    steering_vector,
)
from lumenspark.inspect.architectures import inspect_names
from lumenspark.inspect.heads import HeadScores, ablate_heads, entropy, head_scores, repeated_tokens
from lumenspark.inspect.logit_lens import Attribution, LogitLens, attribution, logit_lens
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
