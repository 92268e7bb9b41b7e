"""Every legal serving layout of a number of GPUs, as flat columns."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts import rules
from meshwise.layouts.layout import Layouts
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.training.space import (
    Refusals,
    divisors,
    expert_grids,
    factorizations,
    keep_legal_tp,
    lists,
    spread,
)
from meshwise.stacks.stack import Stack

# in the order in which they are looked at
RULES = (
    "heads",
    "kv_heads",
    "kv_copies",
    "quantization",
    "layers",
    "stack",
    "replicas",  # more replicas than requests in flight
    "experts",  # ep · etp does not divide tp · dp
    "dcp",  # decode context parallelism over ranks that share no KV head
    "memory",  # the weights and one request do not fit
    "capacity",  # the KV cache does not hold the requests in flight
    "ttft",  # longer than the limit
    "tpot",
)


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

    def keep(table: dict[str, Array], *codes: str) -> dict[str, Array]:
        for rule in codes:
            layout = Layouts(**{name: table[name] for name in Layouts._fields if name in table})
            case = rules.Case(model, stack, "decode", 1, 1, layout, replicas)
            good = rules.expert_groups if rule == "quantization" else rules.RULES[rule]
            table = refused.keep(table, rule, good(case))
        return table

    table = keep(table, "layers", "stack", "replicas")
    inner = table["tp"] * table["dp"]
    table = keep(expert_grids(model, table, pins, inner, inner), "experts", "quantization", "stack")
    if joined:
        joins = table["ep"] * np.maximum(table["etp"], 1) > table["tp"]
        kept = np.flatnonzero((table["dp"] == 1) | joins)
        table = {name: values[kept] for name, values in table.items()}
    asked = pins.get("dcp")
    copies = lists(table["tp"], lambda tp: rules.key_copies(model, tp))
    degrees = [divisors(n) if asked is None else list(asked) for n in copies]
    table = keep(spread(table, degrees, "dcp"), "dcp", "stack")
    return Layouts(**table), refused.counts
