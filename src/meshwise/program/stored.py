"""Bytes of a model's weights, as checkpoints store them."""

from __future__ import annotations

import numpy as np

from meshwise.program.context import widths
from meshwise.program.weights import block_weights, end_weights
from meshwise.spec import dtypes
from meshwise.spec.layout import Layouts
from meshwise.spec.model import Model
from meshwise.spec.parameters import parameters
from meshwise.spec.workload import Prefill


def weight_bytes(model: Model) -> dict[str, float]:
    """Bytes of all weights by number format; a quantised checkpoint first, as it is stored."""
    total = parameters(model)
    found: dict[str, float] = {}
    if model.quantization is not None:
        w = widths(model, Prefill(batch=1, seq=1))
        one = Layouts(tp=np.int64(1))
        stored = 0.0
        for block, n in zip(model.blocks, model.kind_counts(), strict=True):
            local = block_weights(block, model.hidden, one)
            linear = w.plain_weight if model.quantization.experts_only else w.weight
            stored += n * float(
                local.linear * linear + local.plain * w.plain_weight + local.experts * w.weight
            )
        embed, head = end_weights(model, one, model.vocab)
        stored += float(embed + head) * w.plain_weight
        found[f"{model.quantization.method} checkpoint"] = stored
    for name in ("fp32", "bf16", "fp8", "int4"):
        found[name] = total * dtypes.BYTES[name]
    return found
