"""Every legal serving layout of a number of GPUs, as flat columns."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.case import case_of, key_copies
from meshwise.layouts.rules.rule import divisors
from meshwise.layouts.rules.rulebook import RULES, SERVING_CODES
from meshwise.models.shapes import Model
from meshwise.search.training.space import (
    Refusals,
    expert_grids,
    factorizations,
    keep_legal_tp,
    layouts_of,
    lists,
    spread_rows,
)
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode

_NEVER_MADE = ("devices", "sequence", "shards", "interleaving", "sequence_parallel")
# codes of what is refused, in the order in which it is looked at
SERVING_REFUSALS = (
    *(code for code in SERVING_CODES if code not in _NEVER_MADE),
    "memory",  # the weights and one request do not fit
    "capacity",  # the KV cache does not hold the requests in flight
    "ttft",  # longer than the limit
    "tpot",
    "request",
)
_STEP = Decode(batch=1, context=1)  # what is legal does not depend on how long a step is


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
    refused = Refusals(SERVING_REFUSALS)
    table = factorizations(gpus, pins | {"cp": (1,)})
    table.pop("cp")
    table = keep_legal_tp(model, stack, _STEP, table, refused)

    def keep(table: dict[str, Array], *codes: str) -> dict[str, Array]:
        for code in codes:
            case = case_of(model, stack, _STEP, layouts_of(table), replicas)
            table = refused.keep(table, code, RULES[code].keeps(case))
        return table

    table = keep(table, "layers", "shared_layers", "stack", "replicas")
    inner = table["tp"] * table["dp"]
    table = keep(expert_grids(model, table, pins, inner, inner), "experts", "quantization", "stack")
    if joined:
        joins = table["ep"] * np.maximum(table["etp"], 1) > table["tp"]
        kept = np.flatnonzero((table["dp"] == 1) | joins)
        table = {name: values[kept] for name, values in table.items()}
    asked = pins.get("dcp")
    copies = lists(table["tp"], lambda tp: key_copies(model, tp))
    degrees = [divisors(n) if asked is None else list(asked) for n in copies]
    table = keep(spread_rows(table, degrees, "dcp"), "dcp", "stack")
    return Layouts(**table), refused.counts
