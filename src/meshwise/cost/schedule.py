"""Pipeline schedules: the bubble, and the microbatches in flight.

Closed forms in the stage's times of one microbatch: forward F, input gradient B, weight gradient W
(recomputation belongs to B).
"""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.stacks.schedules import SCHEDULES


def bubble_s(
    kind: str,
    pp: Array,
    vp: Array,
    microbatches: Array,
    forward: Array,
    dgrad: Array,
    wgrad: Array,
) -> Array:
    """Idle seconds of a step on each stage; the times [s] are a stage's for one microbatch.

    1F1B and GPipe: (p−1)(F+B+W), interleaved over v virtual stages 1/v of it (Narayanan et al. 2021,
    arXiv 2104.04473, section 2.2). Zero bubble with the memory of 1F1B: (p−1)(F+B−W), with twice
    that memory (p−1)(F+B−2W), never below 0 (Qi et al. 2024, arXiv 2401.10241, Table 1); a stage
    fills its wait with the weight gradients of the microbatches before the last, and has no more.
    """
    if deferred := SCHEDULES[kind].fills:
        fills = np.minimum(deferred * (pp - 1), microbatches - 1)
        return np.maximum((pp - 1) * (forward + dgrad) - fills * wgrad, 0.0)
    return (pp - 1) / vp * (forward + dgrad + wgrad)


def in_flight_microbatches(
    kind: str, pp: Array, vp: Array, plain: Array, microbatches: Array
) -> Array:
    """Microbatches' worth of a stage's activations that are kept at once.

    1F1B: ``plain`` (p on the first stage, one fewer on each next). Interleaved, chunks of 1/v of the
    stage: rank r warms up with 2(p−r−1) + (v−1)·p of them and has one more at work (Megatron-Core,
    pipeline_parallel/schedules.py); 1 + (p−1)/(p·v) times p on the first stage (Korthikanti et al.
    2022, arXiv 2205.05198, section 4.2.3). GPipe: all. Zero bubble: p, or 2p−1 on every stage. Never
    more than there are.
    """
    holds = SCHEDULES[kind].holds
    if holds == "all":
        kept = microbatches
    elif holds == "twice":
        kept = 2 * pp - 1 + 0 * plain
    elif holds == "every stage":
        kept = pp + 0 * plain
    else:
        kept = np.where(vp > 1, ((vp - 1) * pp + 2 * plain - 1) / vp, plain)
    return np.minimum(kept, microbatches)


def paired_share(pp: Array, vp: Array, microbatches: Array) -> Array:
    """Share (0 to 1) of a stage's microbatches whose pass runs beside another one's of the other direction
    under 1F1B.

    All but the passes that fill the pipeline, (v−1)·p + (p−1) chunks on the middle stage (as
    :func:`in_flight_microbatches` counts them), and one more, which has nothing before it.
    """
    alone = (vp - 1) * pp + pp
    return np.maximum(1.0 - alone / (microbatches * vp), 0.0)
