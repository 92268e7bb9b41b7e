"""Serving layouts in words and in tables."""

from __future__ import annotations

from meshwise.answers.records.layout import serving_layout_dict, token_price
from meshwise.answers.text import words
from meshwise.answers.text.tables import Table
from meshwise.search.serving.plan import ServingRow
from meshwise.units import format_memory, format_time


def serving_mesh_words(axes: dict[str, int]) -> str:
    """The degrees that are not 1: ``tp4 dp2``, ``tp8 ep8 etp1``."""
    named = [f"{k}{axes[k]}" for k in ("tp", "pp", "dp") if axes[k] > 1] or ["tp1"]
    if _own_experts(axes):
        d = serving_layout_dict(axes)
        named += [f"ep{d['ep']}", f"etp{d['etp']}"]
    if axes["dcp"] > 1:
        named.append(f"dcp{axes['dcp']}")
    return " ".join(named)


def _own_experts(axes: dict[str, int]) -> bool:
    """Whether experts are split in another way than the rest of a layer."""
    return axes["ep"] > 1 or axes["etp"] not in (0, axes["tp"])


def serving_table(title: str, rows: list[ServingRow], price: float | None, *, ranks: bool) -> Table:
    axes = ["tp", "pp", "dp"]
    if any(_own_experts(r.axes) for r in rows):
        axes += ["ep", "etp"]
    if any(r.axes["dcp"] > 1 for r in rows):
        axes.append("dcp")
    header = [*(["#"] if ranks else []), *(a.upper() for a in axes), "in flight", "TPOT", "TTFT"]
    header += ["request", "tokens/s/GPU", "tokens/s", "memory", "room"]
    if price is not None:
        header.append("$/1M tokens")
    body = []
    for number, r in enumerate(rows, start=1):
        layout = serving_layout_dict(r.axes)
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
            cost = token_price(price, r.devices, r.tokens_per_s)
            cells.append(f"{cost.get('dollars_per_million_tokens', 0.0):,.2f}")
        body.append(tuple(cells))
    keep = (*header[: header.index("TPOT") + 1], "tokens/s/GPU")
    return Table(title, tuple(header), tuple(body), frozenset(), keep, ("$/1M tokens", "TTFT"))
