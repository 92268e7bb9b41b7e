"""Every legal serving layout of a number of GPUs, as flat columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshwise.search.space import (
    Pins,
    Refusals,
    divisors,
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
    table = _experts(model, table, pins, refused)
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


def _experts(
    model: Model, table: dict[str, Array], pins: Pins, refused: Refusals
) -> dict[str, Array]:
    moes = [b.moe for b in model.blocks if b.moe is not None]
    size = len(table["tp"])
    if not moes:
        return table | {"ep": np.ones(size, np.int64), "etp": np.zeros(size, np.int64)}
    experts = int(np.gcd.reduce([m.experts for m in moes]))
    inner = table["tp"] * table["dp"]
    allowed = pins.get("ep")
    eps = [d for d in divisors(experts) if allowed is None or d in allowed]
    table = spread(table, lists(inner, lambda n: [ep for ep in eps if ep <= n]), "ep")
    etp = pins.get("etp")

    def etps(n: int) -> list[int]:
        fits = [d for d in divisors(n) if all(m.expert.width % d == 0 for m in moes)]
        return [d for d in fits if etp is None or d in etp]

    table = spread(table, lists(table["tp"] * table["dp"], etps), "etp")
    whole = table["tp"] * table["dp"] % (table["ep"] * table["etp"]) == 0
    return refused.keep(table, "experts", whole)
