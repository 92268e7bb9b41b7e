"""Every legal serving layout of a number of GPUs, as flat columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshwise.search.space import (
    Pins,
    Refusals,
    divisors,
    expert_grids,
    factorizations,
    keep_legal_tp,
    lists,
    spread,
)
from meshwise.spec.layout import Layouts
from meshwise.spec.model import Model
from meshwise.spec.stack import Stack

Array = Any

# in the order in which they are looked at
RULES = (
    "heads",
    "kv_heads",
    "kv_copies",
    "quantization",
    "layers",
    "replicas",  # more replicas than requests in flight
    "experts",  # ep · etp does not divide tp · dp
    "dcp",  # decode context parallelism over ranks that share no KV head
    "memory",  # the weights and one request do not fit
    "capacity",  # the KV cache does not hold the requests in flight
    "ttft",  # longer than the limit
    "tpot",
)
AXES = ("tp", "pp", "dp", "ep", "etp", "dcp")


def kv_copies(model: Model, tp: int) -> int:
    """Ranks of a TP group that hold the same keys and values, of all layers: what decode context
    parallelism can divide. MLA's latent is on every rank."""
    copies = []
    for block in model.blocks:
        a = block.attention
        if a is not None:
            copies.append(tp if a.mla else max(1, tp // a.kv_heads))
    return int(np.gcd.reduce(copies)) if copies else 1


def serving_space(
    model: Model,
    stack: Stack,
    gpus: int,
    pins: Pins,
    *,
    replicas: int | None = None,
    joined: bool = False,
) -> tuple[Layouts, dict[str, int]]:
    """(columns, refusals): every (tp, pp, dp, ep, etp, dcp) with tp · pp · dp = ``gpus``.

    Experts lie on the tp · dp ranks of a stage: ep divides them, etp their width, ep · etp the ranks;
    more than tp of them is attention data parallelism. ``dcp`` divides the ranks that hold the same
    keys and values. ``replicas`` bounds dp; ``joined`` keeps dp > 1 only where experts join the
    replicas (else they are servers of their own).
    """
    refused = Refusals(RULES)
    table = factorizations(gpus, pins | {"cp": (1,)})
    table.pop("cp")
    table = keep_legal_tp(model, stack, table, refused)
    table = refused.keep(table, "layers", table["pp"] <= model.layers)
    if replicas is not None:
        table = refused.keep(table, "replicas", table["dp"] <= replicas)
    inner = table["tp"] * table["dp"]
    table = expert_grids(model, table, pins, refused, inner, inner)
    if joined:
        joins = table["ep"] * np.maximum(table["etp"], 1) > table["tp"]
        kept = np.flatnonzero((table["dp"] == 1) | joins)
        table = {name: values[kept] for name, values in table.items()}
    asked = pins.get("dcp")
    copies = lists(table["tp"], lambda tp: kv_copies(model, tp))
    degrees = [divisors(n) if asked is None else list(asked) for n in copies]
    many = np.repeat(np.array(copies, dtype=np.int64), [len(d) for d in degrees])
    table = spread(table, degrees, "dcp")
    table = refused.keep(table, "dcp", many % table["dcp"] == 0)
    return Layouts(**table), refused.counts
