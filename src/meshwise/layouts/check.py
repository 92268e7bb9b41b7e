"""One layout that a user wrote down: is it whole, and does the model allow it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.errors import IllegalLayout
from meshwise.layouts import rules
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layout, Layouts, arrays, degrees
from meshwise.models.formats import model_as_run
from meshwise.models.shapes import Model
from meshwise.stacks.schedules import SCHEDULES
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training, Workload


def _refuse(
    field: str, value: object, why: str, legal: object = None, nearest: object = None
) -> None:
    raise IllegalLayout(
        f"{field}={value}: {why}", field=field, value=value, legal=legal, nearest=nearest
    )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _nearest(legal: list[int], value: int) -> int:
    return min(legal, key=lambda d: (abs(d - value), d))


def settled(grid: Layout, model: Model, stack: Stack, phase: str) -> Layout:
    """The layout with sequence parallelism where nobody said it and the software cannot run without."""
    if grid.sequence_parallel is not None or grid.tp == 1:
        return grid
    return msgspec.structs.replace(
        grid, sequence_parallel=rules.needs_split(model, stack, phase) or None
    )


def check(
    grid: Layout,
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    gpus: int | None = None,
    requests: int | None = None,
    *,
    ran: bool = False,
) -> None:
    """Raise :class:`IllegalLayout` for a layout that does not fit its GPUs, whose tp the model does not
    admit, or that breaks one of :data:`rules.RULES`: the first of them as the field, all in the text.
    The model is looked at in the formats that the workload runs it in. ``ran``: the layout of a run
    that somebody measured, with stages cut by hand maybe, on software that could run it."""
    model = model_as_run(model, workload)
    _check_devices(grid, cluster, gpus)
    layout = arrays(grid, workload)
    legality.require_tp(model, grid.tp, stack, etp=int(layout.expert_tp()))
    _check_meaning(grid, workload)
    found = rules.of(model, stack, workload, layout, requests)
    if ran:
        found = found._replace(layout=found.layout._replace(vp=np.int64(1)))
    broken = [
        code for code in rules.broken(found) if not (ran and code in ("stack", "unsplit_experts"))
    ]
    refusals = [SENTENCES[code](grid, found) for code in broken]
    if refusals:
        first = refusals[0]
        others = "".join(f"; {r.field}={r.value}: {r.why}" for r in refusals[1:])
        _refuse(first.field, first.value, first.why + others, first.legal, first.nearest)


def check_switches(
    model: Model, workload: Workload, stack: Stack, layout: Layouts, codes: Sequence[str]
) -> None:
    """Raise where a layout of TP alone cannot do what a switch of the stack asks."""
    found = rules.of(model, stack, workload, layout)
    for code in codes:
        if not bool(np.all(rules.RULES[code](found))):
            refusal = SENTENCES[code](Layout(tp=1), found)
            _refuse(refusal.field, refusal.value, refusal.why, refusal.legal, refusal.nearest)


def _check_devices(grid: Layout, cluster: Cluster, gpus: int | None) -> None:
    product = f"{degrees(grid)} = {grid.devices}"
    if gpus is not None and grid.devices != gpus:
        rest = grid.tp * grid.pp * grid.cp
        fix = f"dp={gpus // rest}" if gpus % rest == 0 and gpus >= rest else None
        _refuse("--gpus", gpus, f"the layout uses {product} GPUs", f"{grid.devices}", fix)
    if grid.devices > cluster.devices:
        _refuse(
            "--tp" if grid.tp > cluster.devices else "--dp" if grid.dp > 1 else "--pp",
            grid.tp if grid.tp > cluster.devices else grid.dp if grid.dp > 1 else grid.pp,
            f"{product} GPUs, but {cluster.name} has {cluster.devices}",
            f"at most {cluster.devices} GPUs (--nodes changes the cluster)",
            None,
        )


def _check_meaning(grid: Layout, workload: Workload) -> None:
    """Refuse what only training has."""
    if isinstance(workload, Training):
        return
    for name in ("micro_batch", "recompute"):
        if getattr(grid, name) is not None:
            option = "--" + name.replace("_", "-")
            why = f"has no meaning in {workload.phase}"
            _refuse(option, getattr(grid, name), why, f"leave {option} out")


class Refusal(NamedTuple):
    """A sentence, and what mends it."""

    field: str
    value: object
    why: str
    legal: object = None
    nearest: object = None


def _of(field: str, value: int, why: str, legal: list[int]) -> Refusal:
    """A degree, with those that the rule admits."""
    shown: list[Any] = legal if len(legal) <= 24 else [*legal[:20], "…", legal[-1]]
    return Refusal(field, value, why, shown, _nearest(legal, value))


def _layers(g: Layout, c: rules.Case) -> Refusal:
    n = c.model.layers
    if g.pp > n:
        return Refusal("--pp", g.pp, f"{g.pp} stages for {n} layers", f"1 to {n}", n)
    if g.pp == 1:
        return Refusal("--vp", g.vp, "virtual stages need a pipeline (pp > 1)", "1", 1)
    legal = [
        v for v in range(1, (n + 2) // g.pp + 1) if rules.chunks(n, np.int64(g.pp), np.int64(v))
    ]
    why = (
        f"pp {g.pp} · vp {g.vp} = {g.pp * g.vp} chunks do not divide the {n} layers evenly, nor with "
        "embedding and loss in the place of one each"
    )
    return _of("--vp", g.vp, why, legal or [1])


def _sequence(g: Layout, c: rules.Case) -> Refusal:
    if c.phase == "decode":
        return Refusal("--cp", g.cp, "decode has one token per sequence: nothing to divide", "1", 1)
    legal = [d for d in _divisors(g.cp * 4) if c.tokens % d == 0]
    return _of("--cp", g.cp, f"does not divide the sequence of {c.tokens} tokens", legal)


def _shards(g: Layout, c: rules.Case) -> Refusal:
    return Refusal("--shard", g.shard, f"{c.phase} has no gradients to shard", "none", "none")


def _batch(g: Layout, c: rules.Case) -> Refusal:
    legal = [d for d in _divisors(c.batch) if d <= 4 * g.dp]
    return _of("--dp", g.dp, f"does not divide the global batch of {c.batch}", legal)


def _micro_batch(g: Layout, c: rules.Case) -> Refusal:
    mine = max(1, c.batch // g.dp)
    why = f"does not divide the {mine} sequences of a replica"
    return _of("--micro-batch", int(c.layout.micro_batch), why, _divisors(mine))


def _loss_chunks(g: Layout, c: rules.Case) -> Refusal:
    n, tokens = c.stack.kernels.loss_chunks, int(rules.microbatch_tokens(c))
    why = f"more parts than the {tokens} tokens of a microbatch"
    return Refusal("--loss-chunks", n, why, f"1 to {tokens}", tokens)


def _exchange(g: Layout, c: rules.Case) -> Refusal:
    why = "with ep 1 there is no exchange of tokens"
    return Refusal("--overlap-experts", "true", why, "ep > 1, or --no-overlap-experts", "false")


def _replicas(g: Layout, c: rules.Case) -> Refusal:
    n = c.requests
    return Refusal("--dp", g.dp, f"more replicas than the {n} requests in flight", f"1 to {n}", n)


def _experts(g: Layout, c: rules.Case) -> Refusal:
    n, name = rules.experts(c.model), c.model.name
    if not n and g.ep > 1:
        return Refusal("--ep", g.ep, f"{name} has no experts", "1", 1)
    if not n:
        return Refusal("--etp", g.etp, f"{name} has no experts", "leave --etp out")
    if n % g.ep:
        return _of("--ep", g.ep, f"does not divide the {n} experts", _divisors(n))
    etp, inner = int(c.layout.expert_tp()), int(c.expert_ranks)
    ranks = f"tp {g.tp} · cp {g.cp} · dp {g.dp} = {inner}"
    widest = g.tp if c.trains else inner
    if widest % etp:
        of = f"tp {g.tp}" if c.trains else ranks
        return _of("--etp", etp, f"does not divide {of}", _divisors(widest))
    legal = [d for d in _divisors(inner) if n % d == 0]
    return _of("--ep", g.ep, f"ep {g.ep} · etp {etp} does not divide {ranks}", legal)


def _interleaving(g: Layout, c: rules.Case) -> Refusal:
    if not c.trains:
        return Refusal("--vp", g.vp, f"{c.phase} has no virtual stages", "1", 1)
    if not SCHEDULES[c.stack.pipeline.schedule].interleaves:
        return Refusal(
            "--vp", g.vp, f"the {c.stack.pipeline.schedule} schedule is not interleaved", "1", 1
        )
    why = f"{int(c.microbatches)} microbatches of a replica are no multiple of pp {g.pp}"
    return Refusal("--vp", g.vp, why, "1, or a batch of more microbatches", 1)


def _sequence_parallel(g: Layout, c: rules.Case) -> Refusal:
    decode = c.phase == "decode"
    tokens = c.batch * c.tokens if decode else c.tokens // g.cp
    why = f"tp does not divide the {tokens} tokens of a {'step' if decode else 'rank'}"
    legal = f"a {'--batch' if decode else '--seq'} that tp divides, or no --sequence-parallel"
    return Refusal("--sequence-parallel", g.tp, why, legal)


def _dcp(g: Layout, c: rules.Case) -> Refusal:
    if c.trains:
        return Refusal("--dcp", g.dcp, "has no meaning in training", "leave --dcp out", 1)
    copies = rules.key_copies(c.model, g.tp)
    why = (
        f"at most {copies} of the tp {g.tp} ranks hold the same keys and values, which dcp divides"
    )
    return _of("--dcp", g.dcp, why, _divisors(copies))


def _unsplit_experts(g: Layout, c: rules.Case) -> Refusal:
    name = c.stack.title or c.stack.name
    why = f"{name} trains experts beside tp {g.tp} with sequence parallelism only"
    return Refusal("--sequence-parallel", "false", why, "--sequence-parallel, or tp 1", "true")


def _stack(g: Layout, c: rules.Case) -> Refusal:
    name, shards = c.stack.title or c.stack.name, c.stack.can.shards
    if g.shard not in shards:
        why = f"{name} shards {_either(shards)} only"
        return Refusal("--shard", g.shard, why, list(shards), shards[-1])
    piped = [s for s in shards if s in c.stack.can.pipelined_shards]
    if g.pp > 1 and g.shard not in piped:
        why = f"beside pipelines {name} shards {_either(piped)} only"
        return Refusal("--shard", g.shard, why, piped, piped[-1])
    for switch, axis, used in rules.ABILITIES:
        if not getattr(c.stack.can, switch) and bool(used(c)):
            what = WORDS[switch]
            return Refusal(f"--{axis}", getattr(g, axis), f"{name} has no {what}", "1", 1)
    raise AssertionError("no ability is missing")


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


WORDS = {
    "pipelines": "pipeline stages",
    "virtual_stages": "interleaved virtual stages",
    "context_parallel": "context parallelism",
    "expert_parallel": "expert parallelism",
    "attention_dp": "experts over the ranks of several replicas",
    "decode_context": "decode context parallelism",
}
SENTENCES: dict[str, Callable[[Layout, rules.Case], Refusal]] = {
    "layers": _layers,
    "sequence": _sequence,
    "shards": _shards,
    "batch": _batch,
    "micro_batch": _micro_batch,
    "loss_chunks": _loss_chunks,
    "replicas": _replicas,
    "experts": _experts,
    "exchange": _exchange,
    "interleaving": _interleaving,
    "sequence_parallel": _sequence_parallel,
    "unsplit_experts": _unsplit_experts,
    "dcp": _dcp,
    "stack": _stack,
}
