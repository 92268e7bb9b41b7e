"""``plan`` of a serving deployment: every legal layout ranked, and the reasons."""

from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

from meshwise.answers.plan import MOST_ON_PAGE, REFUSED_TRAINING
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.evidence import EvidenceRecord
from meshwise.answers.records.layout import serving_row, token_price
from meshwise.answers.records.ranked import Ranked
from meshwise.answers.records.served import serving_evidence
from meshwise.answers.records.workload import serving_workload
from meshwise.answers.serving.limits import (
    binding_record,
    limits_record,
    nearest_record,
    run_settings,
    sent_record,
)
from meshwise.answers.serving.pools import pools_line, pools_words
from meshwise.answers.serving.remarks import unsettled_remarks
from meshwise.answers.serving.sentences import (
    asked_words,
    better_words,
    binding_words,
    goodput_words,
    length_words,
    limited_words,
    nearest_words,
    short_load_words,
)
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import cluster_words, sentence, wrap
from meshwise.answers.text.serving import serving_mesh_words, serving_table
from meshwise.answers.text.tables import Page, Table
from meshwise.axes import Value
from meshwise.layouts.pins import Pins, pins_record
from meshwise.layouts.rules.of_model import DEGREE_CODES
from meshwise.search.serving.changes import ServingChange
from meshwise.search.serving.disaggregated import Instance
from meshwise.search.serving.plan import ServingPlan, ServingRow
from meshwise.search.serving.question import ServingAnswer
from meshwise.search.serving.runs.matched_pools import MatchedPools
from meshwise.search.tp_curve.remarks import run_remarks
from meshwise.units import format_gpus, format_time

_SAME = (*DEGREE_CODES, "layers", "shared_layers")
REFUSED_SERVING = {rule: REFUSED_TRAINING[rule] for rule in _SAME} | {
    "stack": "what this stack cannot run (pipelines, expert or decode context parallelism)",
    "replicas": "more replicas than requests in flight",
    "experts": "EP · expert-TP does not divide TP · DP",
    "dcp": "decode context parallelism over ranks that hold different KV heads",
    "memory": "weights and one request do not fit",
    "capacity": "the KV cache does not hold the requests in flight",
    "ttft": "longer to the first token than the limit",
    "tpot": "longer per output token than the limit",
    "request": "longer for a whole request than the limit",
}


class PlannedServing(NamedTuple):
    """A plan, and what was asked beside it."""

    served: ServingAnswer
    asked_disaggregated: bool
    pins: Pins
    price_per_device_hour: float | None

    @property
    def plan(self) -> ServingPlan:
        return self.served.plan

    @property
    def changes(self) -> tuple[ServingChange, ...]:
        return self.served.changes

    @property
    def disaggregated(self) -> MatchedPools | None:
        return self.served.disaggregated


class ServingChangeRecord(TypedDict):
    """A change that makes a layout feasible, and the best one that it admits."""

    code: str
    value: object
    best: dict[str, object]


class ServingCounts(TypedDict):
    """Layouts that were looked at, and why others are not feasible."""

    enumerated: int
    feasible: int
    refused: dict[str, int]


class ServingPlanRecord(TypedDict):
    """The JSON of ``plan`` for serving: seconds, bytes, tokens; layouts as rows, the best first."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    stack: dict[str, object]
    gpus: int
    objective: str
    limits: dict[str, float | None]
    pinned: dict[str, list[Value]]
    best: dict[str, object] | None
    layouts: list[dict[str, object]]
    pareto: list[dict[str, object]]
    rivals: list[dict[str, object]]
    rule_of_thumb: dict[str, object] | None
    best_not_tight: dict[str, object] | None
    evidence: EvidenceRecord | None
    disaggregated: dict[str, object] | None
    nearest_feasible: list[ServingChangeRecord]
    nearest: dict[str, object] | None
    binds: dict[str, object] | None
    fewest_gpus: int | None
    run: dict[str, object]
    counts: ServingCounts
    partial: bool
    remarks: list[str]
    elapsed_s: float
    compared: NotRequired[dict[str, object]]


class ServingPlanResult(Ranked):
    """The plan of a serving deployment."""

    limits = Key[Record]("Limits of latency by the key that each bounds, ``ttft_p95_s`` [s].")
    fewest_gpus = Key[int | None]("Of a load that was given: the GPUs of the best.")
    binds = Key[Record | None]("What keeps the best from a larger load, or from fewer GPUs.")
    nearest = Key[Record | None]("Where nothing meets the limits: what comes nearest, its misses.")
    run = Key[Record]("Requests and seed of the simulated rows' runs.")
    disaggregated = Key[Record | None]("Prefill and decode on GPUs of their own, where asked for.")
    partial = Key[bool]("Whether an interrupt ended the search early.")

    def __init__(self, planned: PlannedServing) -> None:
        self.planned = planned

    @property
    def feasible(self) -> bool:
        """Whether any layout is."""
        p = self.planned
        return bool(p.plan.rows) or p.disaggregated is not None

    def to_dict(self) -> ServingPlanRecord:
        record = serving_plan_record(self.planned)
        if self.command is not None:
            from meshwise.answers.compared import read_command_record

            record["compared"] = read_command_record(self.command)
        return record

    def page(self) -> Page:
        page = serving_plan_page(self.planned)
        if self.command is None:
            return page
        from meshwise.answers.compared import with_command

        return with_command(page, self.command)


def _instance(i: Instance) -> dict[str, object]:
    return i.layout.record() | {k: v for k, v in i._asdict().items() if k != "layout"}


_AVERAGES = ("ttft_s", "tpot_s", "requests_per_s", "tokens_per_s", "concurrency")


def _disaggregated_record(m: MatchedPools | None, price: float | None) -> dict[str, object] | None:
    if m is None:
        return None
    d = m.simulated
    found = d._asdict() | {"prefill": _instance(d.prefill), "decode": _instance(d.decode)}
    averages = {name: getattr(m.averaged, name) for name in _AVERAGES}
    return found | {"averages": averages} | token_price(price, d.devices, d.tokens_per_s)


def _change_record(c: ServingChange) -> ServingChangeRecord:
    return {"code": c.code, "value": c.value, "best": serving_row(c.row)}


def serving_plan_record(p: PlannedServing) -> ServingPlanRecord:
    """The JSON of a serving plan."""
    a, price, asked = p.plan, p.price_per_device_hour, p.served.asked
    sized = asked.fixed and a.objective != "latency"
    return {
        "schema": SCHEMA,
        "model": a.model.name,
        "cluster": cluster_record(a.cluster),
        "workload": serving_workload(a.workload)
        | sent_record(asked.sent.arrivals, fixed=asked.fixed),
        "stack": stack_record(a.stack),
        "gpus": a.gpus,
        "objective": a.objective,
        "limits": limits_record(asked.limits),
        "pinned": pins_record(p.pins),
        "best": serving_row(a.rows[0], price, asked.limits) if a.rows else None,
        "layouts": [serving_row(r, price, asked.limits) for r in a.rows],
        "pareto": [serving_row(r, price) for r in a.pareto],
        "rivals": [{"axis": axis, **serving_row(r, price)} for axis, r in a.rivals],
        "rule_of_thumb": serving_row(a.rule_of_thumb, price) if a.rule_of_thumb else None,
        "best_not_tight": serving_row(a.roomy, price) if a.roomy else None,
        "evidence": _evidence(a),
        "disaggregated": _disaggregated_record(p.disaggregated, price),
        "nearest_feasible": [_change_record(c) for c in p.changes],
        "nearest": nearest_record(p.served, price),
        "binds": binding_record(p.served.binds),
        "fewest_gpus": a.rows[0].devices if sized and a.rows else None,
        "run": run_settings(asked),
        "counts": {
            "enumerated": a.enumerated,
            "feasible": a.feasible,
            "refused": {rule: n for rule, n in a.refused.items() if n},
        },
        "partial": a.partial,
        "remarks": _remarks(a),
        "elapsed_s": p.served.elapsed_s,
    }


def _remarks(a: ServingPlan) -> list[str]:
    found = run_remarks(a.model, a.cluster, a.workload.decode(), a.stack)
    return found + [s for r in a.rows[:1] for s in unsettled_remarks(r.run, r.concurrency)]


def _evidence(a: ServingPlan) -> EvidenceRecord | None:
    """Of the best layout at its concurrency."""
    if not a.rows:
        return None
    best = a.rows[0]
    running = min(best.concurrency, max(best.max_concurrency, best.layout.dp))
    return serving_evidence(a.model, a.cluster, a.stack, best.layout, a.workload, running)


def serving_plan_line(p: PlannedServing) -> str:
    """The best layout, what it delivers and how soon."""
    best, partial = (p.plan.rows[0] if p.plan.rows else None), p.plan.partial
    if best is None:
        return "No layout is feasible" + (" of those looked at" * partial)
    layout, asked = serving_mesh_words(best.layout), p.served.asked
    head = f"Best {layout}" if not partial else f"Best so far {layout}"
    if asked.fixed and p.plan.objective != "latency":
        head = f"Fewest: {format_gpus(best.devices)}, {layout}"
    arrivals = asked.sent.arrivals
    if best.run is not None:
        arrivals = best.run.arrivals
    elif arrivals is not None:
        arrivals = arrivals._replace(rate=best.requests_per_s)
    load = short_load_words(arrivals, best.concurrency)
    price = token_price(p.price_per_device_hour, best.devices, best.tokens_per_s)
    return words.first_line(
        [
            head,
            f"{words.rate_words(best.tokens_per_s_per_device)} tokens/s per GPU",
            words.pace_words(best.tpot_s, best.tpot_low_s, best.tpot_high_s),
            f"TTFT {format_time(best.ttft_s)}",
            *limited_words(best, asked.limits),
            load,
            *(f"${cost:,.2f} per 1M tokens" for cost in price.values()),
        ]
    )


# -- the page --------------------------------------------------------------------------------------


def _heading(p: PlannedServing) -> str:
    a, w, asked = p.plan, p.plan.workload, p.served.asked
    sized = "up to " if asked.fixed and a.objective != "latency" else ""
    return (
        f"{a.model.name} on {sized}{format_gpus(a.gpus)} of {cluster_words(a.cluster)}: serving "
        f"{length_words(f'{w.isl:,}', f'{w.osl:,}', asked.sent.arrivals)}, {asked_words(asked, a)}, stack {a.stack.name}"
    )


_RANKED = (
    "Simulated rows have the figures of `meshwise serve` and come first; the others are averages of the steady "
    "state, which only tell which layouts to simulate."
)


def serving_plan_page(p: PlannedServing) -> Page:
    """The ranking, what binds, and as detail rivals and the front; or what would be feasible."""
    a = p.plan
    answer = serving_plan_line(p)
    parts: list[Table | str] = []
    detail: list[Table | str] = []
    # the ranking, or what would make one
    if a.rows:
        limits, price = p.served.asked.limits, p.price_per_device_hour
        parts += [serving_table("", list(a.rows), price, ranks=True, limits=limits)]
        parts.append("\n".join(wrap(text) for text in _sentences(p, a.rows[0])))
        parts += evidence_lines(_evidence(a))
        detail += _others(p)
    else:
        near = nearest_words(p.served)
        lines = ["No layout is feasible.", *near]
        if near:
            answer += f": {near[0][0].lower()}{near[0][1:].rstrip('.')}"
        if p.changes and not p.served.asked.fixed:
            answer += f"; the smallest change that makes one: {_change_words(p.changes[0])}"
            lines.append("The smallest change of each kind that makes one:")
            lines += [f"  {_change_words(c)}" for c in p.changes]
        parts.append("\n".join(lines))
    # prefill and decode apart
    if p.asked_disaggregated:
        parts.append(pools_words(p.disaggregated, a.rows[0] if a.rows else None))
        answer += f"; {pools_line(p.disaggregated)}"
    # what it was priced as, and what was not feasible
    parts += map(sentence, _remarks(a))
    if a.rows and not p.plan.stack.ideal:
        parts.append(wrap(_RANKED))
    served = "feasible" if a.rows else "hold a request within the limits"
    parts.append(f"{a.enumerated:,} layouts looked at, {a.feasible:,} {served}.")
    refused = sorted((n, rule) for rule, n in a.refused.items() if n)
    if refused:
        why = [f"  {n:,}: {REFUSED_SERVING[rule]}" for n, rule in reversed(refused)]
        told = "\n".join(["Not feasible, by the first rule that refuses:", *why])
        (detail if a.rows else parts).append(told)
    return Page(_heading(p), tuple(parts), answer, tuple(detail))


def _sentences(p: PlannedServing, best: ServingRow) -> list[str]:
    """Ties, what binds, and what the rule of thumb would give."""
    a = p.plan
    said = []
    ties = [r for r in a.rows[1:] if r.run and r.tpot_s <= best.tpot_high_s and _close(best, r)]
    if ties:
        said.append(
            f"{len(ties)} of the {len(a.rows)} shown deliver within 3% of it, less than its interval."
        )
    goodput = goodput_words(best)
    if goodput and best.good is not None:
        share = words.percent(best.good.requests)
        said.append(
            f"{goodput[0].upper()}{goodput[1:]}: {share} of the requests are within the limits."
        )
    said.append(binding_words(p.served.binds, p.served.asked.fixed))
    if best.tight and a.roomy is not None:
        said.append(
            "The memory of the best is tight: within its error of the limit. The best that is not: "
            f"{serving_mesh_words(a.roomy.layout)} ({better_words(a, a.roomy)})."
        )
    if a.rule_of_thumb is not None:
        thumb = a.rule_of_thumb
        loses = "is the best" if thumb.layout == best.layout else better_words(a, thumb)
        said.append(
            "Rule of thumb (the smallest TP in a node that serves it, replicas for the rest): "
            f"{serving_mesh_words(thumb.layout)}: {loses}."
        )
    return [text for text in said if text]


def _others(p: PlannedServing) -> list[Table | str]:
    """Rivals of the best, and the front of time per token against throughput."""
    a = p.plan
    found: list[Table | str] = []
    if a.rivals:
        rows = tuple(
            (
                f"{axis} {r.layout.record()[axis]}",
                serving_mesh_words(r.layout),
                better_words(a, r),
            )
            for axis, r in a.rivals
        )
        title = "Nearest rivals: the best layout with another value of each axis"
        header = ("instead", "layout", "to best")
        found.append(Table(title, header, rows, frozenset({0, 1, 2}), header))
    if len(a.pareto) > 1:
        title = "Least time per token for the throughput (over layouts and concurrencies)"
        front = list(a.pareto)
        step = max(1, -(-len(front) // MOST_ON_PAGE))
        found.append(serving_table(title, front[::step], p.price_per_device_hour, ranks=False))
    return found


def _close(best: ServingRow, other: ServingRow) -> bool:
    return other.tokens_per_s_per_device >= 0.97 * best.tokens_per_s_per_device


def _change_words(c: ServingChange) -> str:
    best = (
        f"{serving_mesh_words(c.row.layout)}, {c.row.tokens_per_s_per_device:,.1f} tokens/s per GPU"
    )
    if isinstance(c.value, dict):  # limits
        return (
            f"limits of TTFT {format_time(c.value['ttft_s'])} and TPOT "
            f"{format_time(c.value['tpot_s'])} at least ({serving_mesh_words(c.row.layout)}, one request)"
        )
    return f"`{c.code.removesuffix('_dtype')}={c.value}`: {best}"
