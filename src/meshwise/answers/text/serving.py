"""Serving layouts in words and in tables."""

from __future__ import annotations

from meshwise.answers.records.layout import token_price
from meshwise.answers.text import words
from meshwise.answers.text.tables import Table
from meshwise.layouts.layout import Layout
from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.runs.trial import figure_s
from meshwise.units import format_memory, format_time
from meshwise.workloads.limits import LatencyLimit


def serving_mesh_words(layout: Layout) -> str:
    """The degrees that are not 1: ``tp4 dp2``, ``tp8 ep8 etp1``."""
    degrees = [f"{k}{n}" for k in ("tp", "pp", "dp") if (n := getattr(layout, k)) > 1] or ["tp1"]
    if _own_experts(layout):
        degrees += [f"ep{layout.ep}", f"etp{layout.expert_tp}"]
    if layout.dcp > 1:
        degrees.append(f"dcp{layout.dcp}")
    return " ".join(degrees)


def _own_experts(layout: Layout) -> bool:
    """Whether experts are split in another way than the rest of a layer."""
    return layout.ep > 1 or layout.etp not in (None, layout.tp)


def serving_table(
    title: str,
    rows: list[ServingRow],
    price: float | None,
    *,
    ranks: bool,
    limits: tuple[LatencyLimit, ...] = (),
) -> Table:
    """Layouts with their figures; ``limits``: of latency, whose percentiles get a column each."""
    axes = ["tp", "pp", "dp"]
    if any(_own_experts(r.layout) for r in rows):
        axes += ["ep", "etp"]
    if any(r.layout.dcp > 1 for r in rows):
        axes.append("dcp")
    several = len({r.devices for r in rows}) > 1
    said = [limit for limit in limits if limit.percentile is not None]
    header = [*(["#"] if ranks else []), *(["GPUs"] if several else [])]
    header += [*(a.upper() for a in axes), "in flight", "TPOT", "TTFT"]
    header += [limit.words for limit in said]
    header += ["request", "tokens/s/GPU", "tokens/s", "memory", "room"]
    if any(r.run for r in rows):
        header.append("simulated")
    if price is not None:
        header.append("$/1M tokens")
    body = []
    for number, r in enumerate(rows, start=1):
        layout = r.layout.record()
        cells = [str(number)] if ranks else []
        cells += [str(r.devices)] if several else []
        cells += [str(layout[a]) for a in axes]
        cells += [
            f"{r.concurrency:,}",
            f"{format_time(r.tpot_s)} {words.interval(r.tpot_s, r.tpot_low_s, r.tpot_high_s)}"
            if r.tpot_s > 0.0
            else "-",
            format_time(r.ttft_s),
            *("-" if r.run is None else format_time(figure_s(r.run.steady, x)) for x in said),
            format_time(r.request_s),
            f"{r.tokens_per_s_per_device:,.1f}",
            f"{r.tokens_per_s:,.0f}",
            format_memory(r.memory_bytes),
            f"{r.max_concurrency:,}",
        ]
        if "simulated" in header:
            cells.append("yes" if r.run else "no")
        if price is not None:
            cost = token_price(price, r.devices, r.tokens_per_s)
            cells.append(f"{cost.get('dollars_per_million_tokens', 0.0):,.2f}")
        body.append(tuple(cells))
    keep = (*header[: header.index("TPOT") + 1], *(x.words for x in said), "tokens/s/GPU")
    return Table(title, tuple(header), tuple(body), frozenset(), keep, ("$/1M tokens", "TTFT"))
