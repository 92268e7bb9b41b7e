"""Serving in steady state: time per output token with the prompts' work mixed in, static batches."""

from __future__ import annotations

import numpy as np

from meshwise.cost.estimate import estimate
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import Layouts
from meshwise.spec.model import Model
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Decode, Formats, Prefill


def layout(tp: int, pp: int = 1, ep: int = 1) -> Layouts:
    return Layouts(tp=np.int64(tp), pp=np.int64(pp), ep=np.int64(ep))


def continuous_tpot_s(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layouts: Layouts,
    *,
    isl: int,
    osl: int,
    concurrency: int,
    formats: Formats,
) -> float:
    """Mean seconds per output token with ``concurrency`` requests in flight on one replica, each ``isl`` tokens in and ``osl`` out.

    Every request brings one prompt per ``osl`` iterations, so an iteration carries concurrency / osl
    prompts beside its ``concurrency`` new tokens: TPOT = decode + concurrency / osl · prefill. The
    context of a request grows from isl to isl + osl: its mean is priced.
    """
    decode = estimate(
        model,
        cluster,
        Decode(batch=concurrency, context=isl + osl // 2, formats=formats),
        stack,
        layouts,
    )
    prefill = estimate(model, cluster, Prefill(batch=1, seq=isl, formats=formats), stack, layouts)
    return float(decode.step_s) + concurrency / osl * float(prefill.step_s)


def static_batch_s(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layouts: Layouts,
    *,
    isl: int,
    osl: int,
    batch: int,
    formats: Formats,
) -> float:
    """Seconds from the first input of a static batch to its last output token: prefill, then osl − 1
    decode iterations whose context grows by one each (the mean context is priced: time is affine
    in it)."""
    prefill = estimate(
        model, cluster, Prefill(batch=batch, seq=isl, formats=formats), stack, layouts
    )
    first = float(prefill.step_s)
    if osl <= 1:
        return first
    mean = isl + osl // 2
    decode = estimate(
        model, cluster, Decode(batch=batch, context=mean, formats=formats), stack, layouts
    )
    return first + (osl - 1) * float(decode.step_s)
