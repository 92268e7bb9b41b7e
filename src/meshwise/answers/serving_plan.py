"""What ``plan`` answers for serving: its JSON (schema 1) and its page."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.answers import first_line, records
from meshwise.answers.attributes import Key, Record
from meshwise.answers.pages import cluster_words, wrap
from meshwise.answers.plan import REFUSED as TRAINING_REFUSED
from meshwise.answers.plan import Ranked, page_with_compared, with_compared
from meshwise.answers.serve import workload_dict
from meshwise.answers.text import words
from meshwise.answers.text.tables import Page, Table
from meshwise.layouts.layout import Layout
from meshwise.layouts.pins import Pins, pins_record
from meshwise.search.serving.disaggregated import Disaggregated, Instance
from meshwise.search.serving.plan import ServingChange, ServingPlan, ServingRow
from meshwise.search.serving.question import Served
from meshwise.search.tp_curve.curve import run_remarks
from meshwise.units import format_memory, format_time

_SAME = ("heads", "kv_heads", "kv_copies", "quantization", "layers")
REFUSED = {rule: TRAINING_REFUSED[rule] for rule in _SAME} | {
    "stack": "what this stack cannot run (pipelines, expert or decode context parallelism)",
    "replicas": "more replicas than requests in flight",
    "experts": "EP · expert-TP does not divide TP · DP",
    "dcp": "decode context parallelism over ranks that hold different KV heads",
    "memory": "weights and one request do not fit",
    "capacity": "the KV cache does not hold the requests in flight",
    "ttft": "longer to the first token than the limit",
    "tpot": "longer per output token than the limit",
}
MOST_POINTS = 12  # of the front on the page; the JSON has all


class PlannedServing(NamedTuple):
    """A plan, and what was asked beside it."""

    served: Served
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
    def disaggregated(self) -> Disaggregated | None:
        return self.served.disaggregated


class ServingPlanResult(Ranked):
    """The plan of a serving deployment."""

    limits = Key[Record | None]("Limits of ``ttft_s`` and ``tpot_s`` [s].")
    disaggregated = Key[Record | None]("Prefill and decode on GPUs of their own, where asked for.")
    partial = Key[bool]("Whether an interrupt ended the search early.")

    def __init__(self, planned: PlannedServing) -> None:
        self.planned = planned

    @property
    def feasible(self) -> bool:
        """Whether any layout is."""
        p = self.planned
        return bool(p.plan.rows) or p.disaggregated is not None

    def to_dict(self) -> dict[str, Any]:
        return with_compared(serving_plan_dict(self.planned), self.beside)

    def page(self) -> Page:
        return page_with_compared(serving_plan_page(self.planned), self.beside)


def _price(price: float | None, devices: int, tokens_per_s: float) -> dict[str, float]:
    if price is None or tokens_per_s <= 0:
        return {}
    return {"dollars_per_million_tokens": price * devices / 3600.0 / tokens_per_s * 1e6}


def row_dict(r: ServingRow, price: float | None = None) -> dict[str, Any]:
    figures = {k: v for k, v in r._asdict().items() if k != "layout"}
    step = {"step_s": r.tpot_s, "step_low_s": r.tpot_low_s, "step_high_s": r.tpot_high_s}
    cost = _price(price, r.devices, r.tokens_per_s)
    return r.layout.record() | step | {"mfu": None} | figures | cost


def _instance(i: Instance) -> dict[str, Any]:
    return {**i.layout.record(), **{k: v for k, v in i._asdict().items() if k != "layout"}}


def disaggregated_dict(d: Disaggregated | None, price: float | None) -> dict[str, Any] | None:
    if d is None:
        return None
    found = d._asdict() | {"prefill": _instance(d.prefill), "decode": _instance(d.decode)}
    return found | _price(price, d.devices, d.tokens_per_s)


def change_dict(c: ServingChange) -> dict[str, Any]:
    return {"code": c.code, "value": c.value, "best": row_dict(c.row)}


def serving_plan_dict(p: PlannedServing) -> dict[str, Any]:
    a, price = p.plan, p.price_per_device_hour
    return {
        "schema": records.SCHEMA,
        "model": a.model.name,
        "cluster": records.cluster_dict(a.cluster),
        "workload": workload_dict(a.workload),
        "stack": records.stack_dict(a.stack),
        "gpus": a.gpus,
        "objective": a.objective,
        "limits": a.limits._asdict(),
        "pinned": pins_record(p.pins),
        "best": row_dict(a.rows[0], price) if a.rows else None,
        "layouts": [row_dict(r, price) for r in a.rows],
        "pareto": [row_dict(r, price) for r in a.pareto],
        "rivals": [{"axis": axis, **row_dict(r, price)} for axis, r in a.rivals],
        "rule_of_thumb": row_dict(a.rule_of_thumb, price) if a.rule_of_thumb else None,
        "disaggregated": disaggregated_dict(p.disaggregated, price),
        "nearest_feasible": [change_dict(c) for c in p.changes],
        "counts": {
            "enumerated": a.enumerated,
            "feasible": a.feasible,
            "refused": {rule: n for rule, n in a.refused.items() if n},
        },
        "partial": a.partial,
        "remarks": run_remarks(a.model, a.cluster, a.workload.decode(), a.stack),
        "elapsed_s": p.served.elapsed_s,
    }


def mesh_words(layout: Layout) -> str:
    degrees = [f"{k}{n}" for k in ("tp", "pp", "dp") if (n := getattr(layout, k)) > 1] or ["tp1"]
    if layout.ep > 1 or layout.etp not in (None, layout.tp):
        degrees += [f"ep{layout.ep}", f"etp{layout.expert_tp}"]
    if layout.dcp > 1:
        degrees.append(f"dcp{layout.dcp}")
    return " ".join(degrees)


def _table(title: str, rows: list[ServingRow], price: float | None, *, ranks: bool) -> Table:
    axes = ["tp", "pp", "dp"]
    if any(r.layout.ep > 1 or r.layout.etp not in (None, r.layout.tp) for r in rows):
        axes += ["ep", "etp"]
    if any(r.layout.dcp > 1 for r in rows):
        axes.append("dcp")
    header = [*(["#"] if ranks else []), *(a.upper() for a in axes), "in flight", "TPOT", "TTFT"]
    header += ["request", "tokens/s/GPU", "tokens/s", "memory", "room"]
    if price is not None:
        header.append("$/1M tokens")
    body = []
    for number, r in enumerate(rows, start=1):
        layout = r.layout.record()
        cells = [str(number)] if ranks else []
        cells += [str(layout[a]) for a in axes]
        cells += [
            f"{r.concurrency:,}",
            f"{format_time(r.tpot_s)} {words.interval(r.tpot_s, r.tpot_low_s, r.tpot_high_s)}",
            format_time(r.ttft_s),
            format_time(r.request_s),
            f"{r.tokens_per_s_per_device:,.1f}",
            f"{r.tokens_per_s:,.0f}",
            format_memory(r.memory_bytes),
            f"{r.max_concurrency:,}",
        ]
        if price is not None:
            cost = _price(price, r.devices, r.tokens_per_s)
            cells.append(f"{cost.get('dollars_per_million_tokens', 0.0):,.2f}")
        body.append(tuple(cells))
    keep = (*header[: header.index("TPOT") + 1], "tokens/s/GPU")
    return Table(title, tuple(header), tuple(body), frozenset(), keep, ("$/1M tokens", "TTFT"))


def _heading(p: PlannedServing) -> str:
    a, w = p.plan, p.plan.workload
    limits = [
        f"{name} at most {format_time(v)}"
        for name, v in (("TTFT", a.limits.ttft_s), ("TPOT", a.limits.tpot_s))
        if v is not None
    ]
    load = " and ".join(limits) if limits else f"{w.concurrency:,} requests in flight"
    return (
        f"{a.model.name} on {words.gpus(a.gpus)} of {cluster_words(a.cluster)}: serving {w.isl:,} tokens in, "
        f"{w.osl:,} out, {load}, stack {a.stack.name}"
    )


def _better(best: ServingRow, other: ServingRow) -> str:
    share = 1.0 - other.tokens_per_s_per_device / best.tokens_per_s_per_device
    slower = other.tpot_s / best.tpot_s - 1.0
    return f"{_signed(-share)} tokens/s/GPU, {_signed(slower)} TPOT"


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else '−'}{words.percent(abs(share))}"


def serving_plan_page(p: PlannedServing) -> Page:
    a, price = p.plan, p.price_per_device_hour
    parts: list[Table | str] = []
    detail: list[Table | str] = []
    layout = mesh_words(a.rows[0].layout) if a.rows else ""
    answer = first_line.planned_serving(a.rows[0] if a.rows else None, layout, a.partial)
    if a.rows:
        best = a.rows[0]
        parts.append(_table("", list(a.rows), price, ranks=True))
        said = []
        ties = [r for r in a.rows[1:] if r.tpot_s <= best.tpot_high_s and _close(best, r)]
        if ties:
            said.append(
                f"{len(ties)} of the {len(a.rows)} shown deliver within 3% of it, less than its interval."
            )
        said.append(_binding(p, best))
        if a.rule_of_thumb is not None:
            thumb = a.rule_of_thumb
            loses = "is the best" if thumb.layout == best.layout else _better(best, thumb)
            said.append(
                "Rule of thumb (the smallest TP in a node that serves it, replicas for the rest): "
                f"{mesh_words(thumb.layout)}: {loses}."
            )
        parts.append("\n".join(wrap(text) for text in said if text))
        if a.rivals:
            rows = tuple(
                (f"{axis} {r.layout.record()[axis]}", mesh_words(r.layout), _better(best, r))
                for axis, r in a.rivals
            )
            title = "Nearest rivals: the best layout with another value of each axis"
            header = ("instead", "layout", "to best")
            detail.append(Table(title, header, rows, frozenset({0, 1, 2}), header))
        if len(a.pareto) > 1:
            title = "Least time per token for the throughput (over layouts and concurrencies)"
            front = list(a.pareto)
            step = max(1, -(-len(front) // MOST_POINTS))
            detail.append(_table(title, front[::step], price, ranks=False))
    else:
        lines = ["No layout is feasible."]
        if p.changes:
            answer += f"; the smallest change that makes one: {_change(p.changes[0])}"
            lines.append("The smallest change of each kind that makes one:")
            lines += [f"  {_change(c)}" for c in p.changes]
        parts.append("\n".join(lines))
    if p.asked_disaggregated:
        parts.append(_disaggregated(p))
        answer += f"; {_apart(p)}"
    parts += [
        wrap(f"{r[0].upper()}{r[1:]}.")
        for r in run_remarks(a.model, a.cluster, a.workload.decode(), a.stack)
    ]
    parts.append(f"{a.enumerated:,} layouts looked at, {a.feasible:,} feasible.")
    refused = sorted((n, rule) for rule, n in a.refused.items() if n)
    if refused:
        why = [f"  {n:,}: {REFUSED[rule]}" for n, rule in reversed(refused)]
        told = "\n".join(["Not feasible, by the first rule that refuses:", *why])
        (detail if a.rows else parts).append(told)
    return Page(_heading(p), tuple(parts), answer, tuple(detail))


def _close(best: ServingRow, other: ServingRow) -> bool:
    return other.tokens_per_s_per_device >= 0.97 * best.tokens_per_s_per_device


def _binding(p: PlannedServing, best: ServingRow) -> str:
    """What the best layout runs into."""
    a = p.plan
    if a.limits.tpot_s is None and a.limits.ttft_s is None:
        return ""
    if best.concurrency >= best.max_concurrency:
        return "The KV cache binds: it holds no more requests."
    left = {
        name: 1.0 - value / limit
        for name, value, limit in (
            ("TTFT", best.ttft_s, a.limits.ttft_s),
            ("TPOT", best.tpot_s, a.limits.tpot_s),
        )
        if limit is not None
    }
    name = min(left, key=lambda k: left[k])
    return f"The limit on {name} binds: it is used to {words.percent(1.0 - left[name])}."


def _change(c: ServingChange) -> str:
    best = f"{mesh_words(c.row.layout)}, {c.row.tokens_per_s_per_device:,.1f} tokens/s per GPU"
    if c.code == "limits":
        return (
            f"limits of TTFT {format_time(c.value['ttft_s'])} and TPOT "
            f"{format_time(c.value['tpot_s'])} at least ({mesh_words(c.row.layout)}, one request)"
        )
    return f"`{c.code.removesuffix('_dtype')}={c.value}`: {best}"


def _apart(p: PlannedServing) -> str:
    """Of the first line: what prefill and decode on GPUs of their own deliver."""
    d = p.disaggregated
    if d is None:
        return "disaggregated: no two pools meet the limits"
    rate = first_line.rate(d.tokens_per_s_per_device)
    return f"disaggregated {rate} tokens/s per GPU on {d.devices}"


def _disaggregated(p: PlannedServing) -> str:
    d = p.disaggregated
    if d is None:
        return "Disaggregated: no two pools meet the limits on these GPUs."
    said = (
        f"Disaggregated: {d.prefill_instances} × prefill ({mesh_words(d.prefill.layout)}, {d.prefill.batch} "
        f"prompts together) and {d.decode_instances} × decode ({mesh_words(d.decode.layout)}, "
        f"{d.decode.batch} in flight) on {words.gpus(d.devices)}: {d.tokens_per_s_per_device:,.1f} tokens/s per "
        f"GPU, TTFT {format_time(d.ttft_s)} ({format_time(d.transfer_s)} of it moves "
        f"{format_memory(d.transfer_bytes)} of keys and values), TPOT {format_time(d.tpot_s)}; "
        f"{'the transfers bind' if d.bound == 'transfer' else d.bound + ' binds'}."
    )
    if p.plan.rows:
        share = d.tokens_per_s_per_device / p.plan.rows[0].tokens_per_s_per_device - 1.0
        said += f" {_signed(share)} against the best layout that does both."
    return wrap(said)
