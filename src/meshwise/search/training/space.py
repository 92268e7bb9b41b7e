"""Every legal training layout of a number of GPUs: flat columns of meshes, each with its own switches.

A *mesh* is (tp, pp, dp, cp, ep, etp); a *column* a mesh with a microbatch and a placement; a *layout* a
column with virtual stages, recomputation, sequence parallelism and a sharding stage. What breaks a
rule is counted under the first one, in the order of the rulebook: a mesh as one, for its switches are
not looked at. Layouts that are one program (sequence parallelism over one rank, sharding over one,
recomputing scores that were never kept, placements with the same ranks on every level) are one layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import ORDERS, RECOMPUTE_CODE, SHARD_CODE
from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.layouts.pins import Pins
from meshwise.layouts.placement import Group, alike, groups, pipeline_stride
from meshwise.layouts.rules.case import Case, case_of, cuts_evenly, expert_count
from meshwise.layouts.rules.of_model import DEGREE_CODES
from meshwise.layouts.rules.of_stack import sharding
from meshwise.layouts.rules.rule import divisors
from meshwise.layouts.rules.rulebook import RULES, TRAINING_CODES
from meshwise.models.shapes import Model
from meshwise.stacks.schedules import SCHEDULES
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training, Workload

_NEVER_MADE = ("devices", "micro_batch", "dcp")  # layouts that break these are not enumerated
# codes of what is refused, in the order in which it is looked at
TRAINING_REFUSALS = (*(code for code in TRAINING_CODES if code not in _NEVER_MADE), "memory")
COLUMN = ("tp", "pp", "dp", "cp", "ep", "etp", "micro_batch", "placement")


class Space(NamedTuple):
    """Columns, alike ones beside each other, and what their layouts may be."""

    columns: dict[str, Array]  # of COLUMN, each [n]; of a mesh's placements the first
    groups: dict[str, Group]  # of the columns
    orders: tuple[tuple[int, ...], ...]  # all placements of (tp, pp, cp, dp), by number
    dense: Array  # [n] that number
    vps: Array  # [v, n] virtual stages, 0 where a column has fewer
    sharded: Array  # [n] whether any sharding stage differs from none
    split: Array  # [n] whether sequence parallelism is one of the switches
    unsplit: Array  # [n] whether the layout without it is
    decomposed: tuple[bool, ...]  # with it, whether collectives are cut into chunks
    recompute: tuple[int, ...]
    shard: tuple[int, ...]  # of columns that are sharded, what the stack can run
    piped: tuple[int, ...]  # … of those with pipelines
    number: Array  # [n] layouts of a column, of one placement; memory not looked at
    refused: dict[str, int]

    @property
    def size(self) -> int:
        return len(self.columns["tp"])

    @property
    def placements(self) -> Array:
        """[n] how many placements a column has."""
        return np.array([len(orders) for orders in self.orders], dtype=np.int64)[self.dense]

    @property
    def layouts(self) -> int:
        """Legal layouts of all placements, memory not looked at."""
        return int(np.sum(self.number * self.placements))

    def take(self, index: Array) -> Space:
        """Some of the columns."""
        return self._replace(
            columns=_take(self.columns, index),
            groups=take_groups(self.groups, index),
            dense=self.dense[index],
            vps=self.vps[:, index],
            **{
                name: getattr(self, name)[index]
                for name in ("sharded", "split", "unsplit", "number")
            },
        )

    def placed(self, index: Array, cluster: Cluster) -> Space:
        """The columns of ``index`` with their other placements."""
        others = [self.orders[d][1:] for d in self.dense[index].tolist()]
        of = np.repeat(index, [len(o) for o in others])
        found = self.take(of)
        order = np.array([o for each in others for o in each], dtype=np.int64)
        columns = found.columns | {"placement": order}
        return found._replace(columns=columns, groups=groups(Layouts(**columns), cluster))


def take_groups(groups_: dict[str, Group], index: Any) -> dict[str, Group]:
    """The groups of some columns."""

    def at(values: Array) -> Array:
        return values[index] if np.ndim(values) else values

    return {
        name: g._replace(ranks=tuple(map(at, g.ranks)), active=tuple(map(at, g.active)))
        for name, g in groups_.items()
    }


def factorizations(gpus: int, pins: Pins) -> dict[str, Array]:
    """All (tp, pp, cp, dp) whose product is ``gpus``."""
    rows: list[tuple[int, int, int, int]] = []
    every = divisors(gpus)

    def free(axis: str, left: int) -> Iterator[int]:
        allowed = pins.get(axis)
        for d in every if allowed is None else sorted(set(allowed)):
            if d <= left and left % d == 0:
                yield d

    for tp in free("tp", gpus):
        for pp in free("pp", gpus // tp):
            for cp in free("cp", gpus // tp // pp):
                dp = gpus // tp // pp // cp
                if "dp" not in pins or dp in pins["dp"]:
                    rows.append((tp, pp, cp, dp))
    table = np.array(rows, dtype=np.int64).reshape(-1, 4)
    return dict(zip(("tp", "pp", "cp", "dp"), table.T, strict=True))


def _take(table: dict[str, Array], index: Array) -> dict[str, Array]:
    return {name: values[index] for name, values in table.items()}


def spread_rows(table: dict[str, Array], lists: list[Any], name: str) -> dict[str, Array]:
    """Each row once per value of its list, the value in column ``name``."""
    lengths = np.array([len(values) for values in lists], dtype=np.int64)
    index = np.repeat(np.arange(len(lists)), lengths)
    flat = [value for values in lists for value in values]
    return _take(table, index) | {name: np.array(flat, dtype=np.int64)}


def lists(values: Array, of: Any) -> list[Any]:
    """``of`` each value, worked out once per distinct value."""
    known = {int(v): of(int(v)) for v in set(values.tolist())}
    return [known[int(v)] for v in values.tolist()]


class Refusals:
    """Rows that break a rule, counted under the first that they break."""

    def __init__(self, codes: tuple[str, ...] = TRAINING_REFUSALS) -> None:
        self.counts = dict.fromkeys(codes, 0)

    def keep(self, table: dict[str, Array], rule: str, good: Array) -> dict[str, Array]:
        good = np.broadcast_to(good, np.shape(table["tp"]))
        self.counts[rule] += int(good.size - np.count_nonzero(good))
        return _take(table, np.flatnonzero(good))


def least_etp(tp: int, pins: Pins) -> int:
    """The least ranks that split an expert under the pins: all of TP where there is no EP."""
    if "etp" in pins:
        return int(min(pins["etp"]))
    return 1 if max(pins.get("ep", (2,))) > 1 else tp


def keep_legal_tp(
    model: Model,
    stack: Stack,
    workload: Workload,
    table: dict[str, Array],
    refused: Refusals,
) -> dict[str, Array]:
    """The rows whose tp the model and the stack admit."""

    # experts may be split less: their own degree is looked at with it
    table = table | {"etp": np.ones(len(table["tp"]), np.int64)}
    for code in DEGREE_CODES:
        case = case_of(model, stack, workload, layouts_of(table))
        table = refused.keep(table, code, RULES[code].keeps(case))
    table.pop("etp")
    return table


def layouts_of(table: dict[str, Array]) -> Layouts:
    """The columns of a table that are axes."""
    return Layouts(**{name: table[name] for name in Layouts._fields if name in table})


def _meshes(
    model: Model, stack: Stack, w: Training, gpus: int, pins: Pins, refused: Refusals
) -> dict[str, Array]:
    table = factorizations(gpus, pins)

    table = keep_legal_tp(model, stack, w, table, refused)
    for code in ("layers", "shared_layers", "stack", "sequence", "head_exchange", "batch"):
        table = refused.keep(table, code, RULES[code].keeps(_case(model, stack, w, table)))
    return table


def _case(model: Model, stack: Stack, w: Training, table: dict[str, Array]) -> Case:
    """Rows of a table as the rules look at them."""
    return case_of(model, stack, w, layouts_of(table))


def _experts(
    model: Model,
    stack: Stack,
    w: Training,
    table: dict[str, Array],
    pins: Pins,
    refused: Refusals,
) -> dict[str, Array]:
    """Each mesh with every expert grid: ep divides the experts, etp divides tp and the width."""
    inner = table["tp"] * table["cp"] * table["dp"]
    found = expert_grids(model, table, pins, inner, table["tp"])
    for code in ("experts", "exchange", "stack", "quantization"):
        found = refused.keep(found, code, RULES[code].keeps(_case(model, stack, w, found)))
    return found


def expert_grids(
    model: Model,
    table: dict[str, Array],
    pins: Pins,
    inner: Array,
    widest: Array,
) -> dict[str, Array]:
    """Each row with every (ep, etp) that may be legal: ep divides the experts and is no more than the
    ``inner`` ranks of a stage, etp divides ``widest``. Without experts one row stays one."""
    experts = expert_count(model)
    size = len(table["tp"])
    if not experts:
        return table | {"ep": np.ones(size, np.int64), "etp": np.zeros(size, np.int64)}
    eps = [d for d in divisors(experts) if "ep" not in pins or d in pins["ep"]]
    table = table | {"widest": widest}
    table = spread_rows(table, lists(inner, lambda n: [ep for ep in eps if ep <= n]), "ep")

    def etps(n: int) -> list[int]:
        return [d for d in divisors(n) if "etp" not in pins or d in pins["etp"]]

    return spread_rows(table, lists(table.pop("widest"), etps), "etp")


def _placements(
    table: dict[str, Array], cluster: Cluster, pins: Pins, routed: bool
) -> list[tuple[int, ...]]:
    """Of each (tp, pp, cp, dp) the orders of its axes that put other ranks on some fabric level, or
    (for experts) pipeline stages elsewhere among them."""
    allowed = pins.get("placement", range(len(ORDERS)))
    orders = np.array(sorted(allowed), dtype=np.int64)
    size = len(table["tp"])
    every = _take(table, np.repeat(np.arange(size), orders.size))
    every["placement"] = np.tile(orders, size)
    found = groups(Layouts(**every), cluster)
    rows: list[Array] = [np.repeat(np.arange(size), orders.size)]
    for axis in ("tp", "cp", "dp", "pp", "dp_cp"):
        ranks, active = found[axis].ranks, found[axis].active
        # who shares a level's links matters where the group crosses it
        rows += [*ranks, *(np.where(r > 1, a, 0) for r, a in zip(ranks, active, strict=True))]
    if routed:
        rows.append(np.where(every["pp"] > 1, pipeline_stride(Layouts(**every)), 0))
    first = np.sort(np.unique(alike(rows), return_index=True)[1])
    of, kept = first // orders.size, every["placement"][first]
    starts = np.searchsorted(of, np.arange(size + 1))
    return [tuple(kept[a:b].tolist()) for a, b in itertools.pairwise(starts.tolist())]


def virtual_stages(layers: int, pp: int) -> list[int]:
    """Numbers of virtual stages v > 1 that cut the layers into pp · v chunks."""
    vps = np.arange(2, (layers + 2) // pp + 1)
    return [int(v) for v in vps[cuts_evenly(layers, np.int64(pp), vps)]]


def _switches(
    model: Model, w: Training, stack: Stack, pins: Pins
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(recomputation, sharding stages) to look at."""
    unfused = stack.kernels.attention != "flash" or stack.ideal
    kept = unfused or stack.memory.selective_recompute != "attention"
    kept = kept or set(stack.memory.recompute_modules) != {"core_attn"}
    modes = [code for name, code in RECOMPUTE_CODE.items() if kept or name != "selective"]
    asked = pins.get("shard", tuple(SHARD_CODE.values()))
    return tuple(pins.get("recompute", modes)), tuple(asked)


def space(
    model: Model, cluster: Cluster, w: Training, stack: Stack, gpus: int, pins: Pins
) -> Space:
    """The legal layouts of ``gpus`` devices, and how many each rule refuses."""
    refused = Refusals()
    routed = any(b.moe is not None for b in model.blocks)
    table = _meshes(model, stack, w, gpus, pins, refused)
    orders = _placements(table, cluster, pins, routed)
    table["dense"] = np.arange(len(table["tp"]))
    table["placement"] = np.array([o[0] for o in orders], dtype=np.int64)
    table = _experts(model, stack, w, table, pins, refused)
    dense = table.pop("dense")
    placed = groups(Layouts(**table), cluster)
    mesh = np.arange(len(table["tp"]))
    micros = lists(
        w.batch // table["dp"],
        lambda n: [m for m in divisors(n) if "micro_batch" not in pins or m in pins["micro_batch"]],
    )
    table = spread_rows(table | {"mesh": mesh}, micros, "micro_batch")
    table = refused.keep(
        table, "loss_chunks", RULES["loss_chunks"].keeps(_case(model, stack, w, table))
    )
    mesh = table.pop("mesh")
    placements = np.array([len(o) for o in orders], dtype=np.int64)[dense[mesh]]
    tp, pp, cp = table["tp"], table["pp"], table["cp"]
    recompute, shard = _switches(model, w, stack, pins)
    expert_dp = Layouts(**table).expert_dp() if np.any(table["etp"] > 0) else 1
    sharded = (table["dp"] * cp > 1) | (expert_dp > 1)
    able = [sharding(stack, np.int64(code), pp) for code in shard]
    wanted_shards = np.where(sharded, len(shard), int(0 in shard))
    shards = np.where(sharded, sum(able, np.int64(0)), int(0 in shard))
    sp = pins.get("sequence_parallel", (False, True))
    split_all = _case(model, stack, w, table | {"sequence_parallel": np.ones(len(tp), bool)})
    fits_sp = RULES["sequence_parallel"].keeps(split_all)
    unsplit = np.full(len(tp), False in sp) | (tp == 1) & (False in sp)
    split_none = _case(model, stack, w, table | {"sequence_parallel": np.zeros(len(tp), bool)})
    banned = unsplit & ~RULES["unsplit_experts"].keeps(split_none)
    wanted = (tp > 1) & (True in sp)
    split = wanted & fits_sp
    vps = _virtual(model, w, stack, table, pins)
    # ideal rates hide nothing; a stack that overlaps by itself has one way
    both = stack.overlaps.overlap == "none" and not stack.ideal
    ways = tuple(pins.get("decomposed", (False, True) if both else (False,)))
    if False not in ways:
        unsplit = np.zeros_like(unsplit)
        banned = np.zeros_like(banned)
    staged = _case(model, stack, w, table | {"vp": np.maximum(vps, 1)})
    legal_vp = (vps > 0) & RULES["interleaving"].keeps(_case(model, stack, w, table | {"vp": vps}))
    per_vp = shards * len(recompute)
    asked = np.count_nonzero(vps, axis=0)
    even = np.count_nonzero(legal_vp, axis=0)
    legal_vp = legal_vp & RULES["shared_layers"].keeps(staged)
    found = np.count_nonzero(legal_vp, axis=0)
    sps = unsplit.astype(np.int64) + wanted * len(ways)
    refused.counts["interleaving"] += int(np.sum((asked - even) * sps * per_vp * placements))
    refused.counts["shared_layers"] += int(np.sum((even - found) * sps * per_vp * placements))
    refused.counts["sequence_parallel"] += int(
        np.sum(found * (wanted & ~fits_sp) * len(ways) * per_vp * placements)
    )
    lost = (wanted_shards - shards) * len(recompute)
    refused.counts["stack"] += int(np.sum(asked * sps * lost * placements))
    refused.counts["unsplit_experts"] += int(np.sum(found * banned * per_vp * placements))
    unsplit = unsplit & ~banned
    number = found * (unsplit.astype(np.int64) + split * len(ways)) * per_vp
    vps = -np.sort(-np.where(legal_vp, vps, 0), axis=0)
    # columns with the same switches beside each other, so that a chunk has few holes; of those, the
    # same degrees
    order = np.lexsort((table["micro_batch"], pp, tp, split, sharded, found))
    order = order[number[order] > 0]
    return Space(
        columns=_take(table, order),
        groups=take_groups(placed, mesh[order]),
        orders=tuple(orders),
        dense=dense[mesh[order]],
        vps=vps[:, order],
        sharded=sharded[order],
        split=split[order],
        unsplit=unsplit[order],
        decomposed=ways,
        recompute=recompute,
        shard=tuple(c for c in shard if sharding(stack, np.int64(c), np.int64(1))),
        piped=tuple(c for c in shard if sharding(stack, np.int64(c), np.int64(2))),
        number=number[order],
        refused=refused.counts,
    )


def _virtual(model: Model, w: Training, stack: Stack, table: dict[str, Array], pins: Pins) -> Array:
    """[v, n]: 1 and the virtual stages of each column; 0 where there are fewer."""
    allowed = pins.get("vp")

    def of(pp: int) -> list[int]:
        able = SCHEDULES[stack.pipeline.schedule].interleaves and stack.can.virtual_stages
        interleaved = virtual_stages(model.layers, pp) if pp > 1 and able else []
        return [v for v in (1, *interleaved) if allowed is None or v in allowed]

    found = lists(table["pp"], of)
    most = max((len(values) for values in found), default=0)
    rows = [values + [0] * (most - len(values)) for values in found]
    return np.array(rows, dtype=np.int64).reshape(len(found), most).T
