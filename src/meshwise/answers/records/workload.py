"""The load of a serving deployment as JSON."""

from __future__ import annotations

import msgspec

from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import drawn_imbalance, drawn_skew


def serving_workload(w: Serving) -> dict[str, object]:
    """The workload as JSON, phase first."""
    fields: dict[str, object] = msgspec.to_builtins(w)
    formats: dict[str, object] = msgspec.to_builtins(w.formats)
    fields.pop("formats")
    if not w.image_tokens:
        fields.pop("image_tokens")
    named = {k if k == "dtype" else f"{k}_dtype": v for k, v in formats.items()}
    named.pop("gradients_dtype")
    fields["expert_imbalance"] = drawn_imbalance(w.expert_imbalance, w.expert_skew)
    fields["expert_skew"] = drawn_skew(w.expert_skew)
    return {"phase": w.phase, **fields, **named}
