"""The collectives of a training step as ``explain`` lists them, in the form of the ledger's."""

from __future__ import annotations

import re
from typing import Any

from meshwise import api
from meshwise.runtime.options import Options
from meshwise.workloads.workload import Formats, Training

BATCH, SEQ = 2, 8
Key = tuple[str, str, str, int, str]  # name, kind, group, payload bytes, phase


def listed(
    path: str,
    options: Options,
    dtype: str = "fp32",
    batch: int = BATCH,
    micro_batch: int = BATCH,
    **layout: Any,
) -> dict[Key, int]:
    """Collectives → calls of a step (by default of one microbatch), for a ``config.json``."""
    narrow = {"e4m3": "fp8", "e5m2": "fp8"}.get(options.comm_dtype or dtype, options.comm_dtype)
    formats = Formats(dtype=dtype, comm=narrow, gradients=dtype)
    overlap = options.overlap if options.overlap in ("split", "decomposed") else "none"
    result = api.estimate(
        path,
        "this-cpu",
        Training(batch=batch, seq=SEQ, micro_batch=micro_batch, formats=formats),
        stack=api.stack("meshwise", overlap=overlap),
        sequence_parallel=options.sequence_parallel,
        **layout,
    )
    found: dict[Key, int] = {}
    for op in result.explain()["operations"]:
        if not op["payload_bytes"] or not op["count"]:
            continue
        name = re.sub(r"layer\[\d+\]", "layer", op["name"])  # layers of different kinds
        key = (name, op["kind"], op["group"], round(op["payload_bytes"]), op["phase"])
        found[key] = found.get(key, 0) + round(op["count"])
    return found
