"""Every legal training layout of a number of GPUs: flat columns of meshes, each with its own switches.

A *mesh* is (tp, pp, dp, cp, ep, etp); a *column* a mesh with a microbatch and a placement; a *layout* a
column with virtual stages, recomputation, sequence parallelism and a sharding stage. What breaks a
rule is counted under the first one, in the order of :data:`RULES`: a mesh as one, for its switches are
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
from meshwise.layouts import rules
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layouts
from meshwise.layouts.pins import Pins
from meshwise.layouts.placement import Group, alike, groups, pipeline_stride
from meshwise.models.shapes import Model
from meshwise.stacks.schedules import SCHEDULES
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

# in the order in which they are looked at
RULES = (
    "heads",  # tp does not divide the attention heads
    "kv_heads",  # tp neither divides nor is a multiple of the KV heads
    "kv_copies",  # the stack does not copy KV heads
    "quantization",  # a shard would hold part of a quantisation group
    "layers",  # more stages than layers
    "stack",  # what the software cannot run
    "sequence",  # cp does not divide the sequence
    "batch",  # dp does not divide the global batch
    "loss_chunks",  # more parts of the loss than a microbatch has tokens
    "experts",  # ep · etp does not divide tp · cp · dp
    "exchange",  # ep 1 where the exchange of tokens is asked to be overlapped
    "interleaving",  # virtual stages whose microbatches are no multiple of pp
    "sequence_parallel",  # tp does not divide a rank's tokens
    "unsplit_experts",  # experts beside tp without sequence parallelism, which the software needs
    "memory",
)
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


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


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


def spread(table: dict[str, Array], lists: list[Any], name: str) -> dict[str, Array]:
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

    def __init__(self, rules: tuple[str, ...] = RULES) -> None:
        self.counts = dict.fromkeys(rules, 0)

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
    model: Model, stack: Stack, table: dict[str, Array], refused: Refusals
) -> dict[str, Array]:
    """The rows whose tp the model and the stack admit."""

    def first(tp: int) -> str:
        # experts may be split less: their own degree is looked at with it
        found = legality.refusals(model, tp, stack, 1)
        return found[0].code if found else ""

    codes = np.array(lists(table["tp"], first), dtype=object)
    for rule in ("heads", "kv_heads", "kv_copies", "quantization"):
        table = refused.keep(table, rule, codes != rule)
        codes = codes[codes != rule]
    return table


def _meshes(
    model: Model, stack: Stack, w: Training, gpus: int, pins: Pins, refused: Refusals
) -> dict[str, Array]:
    table = factorizations(gpus, pins)

    table = keep_legal_tp(model, stack, table, refused)
    for rule in ("layers", "stack", "sequence", "batch"):
        table = refused.keep(table, rule, rules.RULES[rule](case(model, stack, w, table)))
    return table


def case(model: Model, stack: Stack, w: Training, table: dict[str, Array]) -> rules.Case:
    """Rows of a table as the rules look at them."""
    layout = Layouts(**{name: table[name] for name in Layouts._fields if name in table})
    return rules.of(model, stack, w, layout)


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
    for rule in ("experts", "exchange", "stack"):
        found = refused.keep(found, rule, rules.RULES[rule](case(model, stack, w, found)))
    return refused.keep(found, "quantization", rules.expert_groups(case(model, stack, w, found)))


def expert_grids(
    model: Model,
    table: dict[str, Array],
    pins: Pins,
    inner: Array,
    widest: Array,
) -> dict[str, Array]:
    """Each row with every (ep, etp) that may be legal: ep divides the experts and is no more than the
    ``inner`` ranks of a stage, etp divides ``widest``. Without experts one row stays one."""
    experts = rules.experts(model)
    size = len(table["tp"])
    if not experts:
        return table | {"ep": np.ones(size, np.int64), "etp": np.zeros(size, np.int64)}
    eps = [d for d in divisors(experts) if "ep" not in pins or d in pins["ep"]]
    table = table | {"widest": widest}
    table = spread(table, lists(inner, lambda n: [ep for ep in eps if ep <= n]), "ep")

    def etps(n: int) -> list[int]:
        return [d for d in divisors(n) if "etp" not in pins or d in pins["etp"]]

    return spread(table, lists(table.pop("widest"), etps), "etp")


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
    return [int(v) for v in vps[rules.chunks(layers, np.int64(pp), vps)]]


def _switches(
    model: Model, w: Training, stack: Stack, pins: Pins
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(recomputation, sharding stages) to look at."""
    unfused = stack.kernels.attention != "flash" or stack.ideal
    kept = unfused or stack.memory.selective_recompute == "products"
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
    table = spread(table | {"mesh": mesh}, micros, "micro_batch")
    table = refused.keep(table, "loss_chunks", rules.loss_chunks(case(model, stack, w, table)))
    mesh = table.pop("mesh")
    placements = np.array([len(o) for o in orders], dtype=np.int64)[dense[mesh]]
    tp, pp, cp = table["tp"], table["pp"], table["cp"]
    recompute, shard = _switches(model, w, stack, pins)
    expert_dp = Layouts(**table).expert_dp() if np.any(table["etp"] > 0) else 1
    sharded = (table["dp"] * cp > 1) | (expert_dp > 1)
    able = [rules.sharding(stack, np.int64(code), pp) for code in shard]
    wanted_shards = np.where(sharded, len(shard), int(0 in shard))
    shards = np.where(sharded, sum(able, np.int64(0)), int(0 in shard))
    sp = pins.get("sequence_parallel", (False, True))
    split_all = case(model, stack, w, table | {"sequence_parallel": np.ones(len(tp), bool)})
    fits_sp = rules.sequence_parallel(split_all)
    unsplit = np.full(len(tp), False in sp) | (tp == 1) & (False in sp)
    split_none = case(model, stack, w, table | {"sequence_parallel": np.zeros(len(tp), bool)})
    banned = unsplit & ~rules.unsplit_experts(split_none)
    wanted = (tp > 1) & (True in sp)
    split = wanted & fits_sp
    vps = _virtual(model, w, stack, table, pins)
    # ideal rates hide nothing; a stack that overlaps by itself has one way
    both = stack.overlaps.overlap == "none" and not stack.ideal
    ways = tuple(pins.get("decomposed", (False, True) if both else (False,)))
    if False not in ways:
        unsplit = np.zeros_like(unsplit)
        banned = np.zeros_like(banned)
    legal_vp = (vps > 0) & rules.interleaving(case(model, stack, w, table | {"vp": vps}))
    per_vp = shards * len(recompute)
    asked = np.count_nonzero(vps, axis=0)
    found = np.count_nonzero(legal_vp, axis=0)
    sps = unsplit.astype(np.int64) + wanted * len(ways)
    refused.counts["interleaving"] += int(np.sum((asked - found) * sps * per_vp * placements))
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
        shard=tuple(c for c in shard if rules.sharding(stack, np.int64(c), np.int64(1))),
        piped=tuple(c for c in shard if rules.sharding(stack, np.int64(c), np.int64(2))),
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
