"""Training layouts in words and in tables."""

from __future__ import annotations

from meshwise.answers.records.layout import found_dict
from meshwise.answers.text import words
from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.tables import Table
from meshwise.axes import AXES, PLACEMENTS, spoken
from meshwise.layouts.layout import Layout
from meshwise.search.one_layout import Report
from meshwise.search.training.plan import Rival
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_memory, format_time

STEP_PARTS = {
    "compute": "compute",
    "bubble": "the pipeline's bubble",
    "host": "hosts and the slowest rank",
    "tp_comm": "TP communication",
    "cp_comm": "CP communication",
    "ep_comm": "EP communication",
    "etp_comm": "expert-TP communication",
    "dp_comm": "DP communication",
    "expert_dp_comm": "the experts' DP communication",
    "pp_comm": "PP transfers",
}
_SHORT = {"none": "-", "selective": "sel", "full": "full"}


def training_mesh_words(layout: Layout) -> str:
    """The degrees that are not 1, then the switches that are on: ``tp8 pp4 dp16 · mb1 · full``."""
    d = layout
    degrees = [f"{k}{n}" for k in ("tp", "pp", "dp", "cp", "ep") if (n := getattr(d, k)) > 1]
    if d.ep > 1 and d.expert_tp > 1:
        degrees.append(f"etp{d.expert_tp}")
    switches = [f"mb{d.micro_batch}"]
    if d.vp > 1:
        switches.append(f"vp{d.vp}")
    if d.sequence_parallel:
        switches.append("sp")
    if d.decomposed:
        switches.append("decomposed")
    if d.recompute not in (None, "none"):
        switches.append(f"recompute {d.recompute}")
    if d.shard != "none":
        switches.append(d.shard)
    if d.placement != PLACEMENTS[0]:
        switches.append(d.placement)
    return " ".join(degrees or ["tp1"]) + " · " + " ".join(switches)


def _columns(rows: list[PlanRow]) -> list[str]:
    """The axes that the table shows: degrees, and switches that differ from their simplest."""
    shown = ["tp", "pp", "dp"]
    for axis in ("vp", "cp", "ep", *_HEADS):
        usual = AXES[axis].code(AXES[axis].default)
        if axis != "micro_batch" and any(r.found.layout.code(axis) != usual for r in rows):
            shown.append(axis)
            if axis == "ep":
                shown.append("etp")
    shown.insert(
        len([a for a in shown if a in ("tp", "pp", "dp", "vp", "cp", "ep", "etp")]), "micro_batch"
    )
    return shown


_HEADS = {
    "micro_batch": "mb",
    "sequence_parallel": "sp",
    "decomposed": "overlap",
    "recompute": "recompute",
    "shard": "shard",
    "placement": "placement",
}


def _cell(axis: str, row: PlanRow) -> str:
    if axis == "etp":
        return str(row.found.layout.expert_tp)
    value = found_dict(row.found)[spoken(axis)]
    if isinstance(value, bool):
        return "yes" if value else "-"
    return _SHORT.get(str(value), str(value))


def _step(row: PlanRow) -> str:
    return (
        f"{format_time(row.step_s)} {words.interval(row.step_s, row.step_low_s, row.step_high_s)}"
    )


def training_table(title: str, rows: list[PlanRow], *, ranks: bool, price: float | None) -> Table:
    axes = _columns(rows)
    labels = sorted({k for r in rows for k in r.found.variant.label})
    header = [*(["#"] if ranks else []), *(_HEADS.get(a, a.upper()) for a in axes), *labels]
    header += ["step", "MFU", "comm", "bubble", "memory", "to best"]
    if price is not None:
        header.append("$/1B tokens")
    body = []
    for number, row in enumerate(rows, start=1):
        cells = [str(number)] if ranks else []
        cells += [_cell(a, row) for a in axes]
        cells += [str(row.found.variant.label.get(k, "-")) for k in labels]
        cells += [
            _step(row),
            words.percent(row.mfu),
            words.percent(row.exposed_comm_s / row.step_s),
            words.percent(row.bubble_s / row.step_s),
            format_memory(row.memory_bytes),
            difference_words(row),
        ]
        if price is not None:
            cells.append(f"{price * row.devices / 3600.0 / row.tokens_per_s * 1e9:,.0f}")
        body.append(tuple(cells))
    later = ("memory", "to best", "$/1B tokens")
    keep = (*header[: header.index("step") + 1], *(["memory"] if not ranks else []))
    return Table(title, tuple(header), tuple(body), frozenset(), keep, later)


def difference_words(row: PlanRow) -> str:
    if row.difference_s <= 0.0:
        return "best"
    share = row.difference_s / (row.step_s - row.difference_s)
    return f"+{words.percent(share)}" + (" tie" if row.tie else "")


def _why(best: PlanRow, row: PlanRow) -> str:
    """The parts that make the difference, the largest first."""
    names = {*best.parts, *row.parts}
    change = {k: row.parts.get(k, 0.0) - best.parts.get(k, 0.0) for k in names}
    told = sorted(change, key=lambda k: -abs(change[k]))
    floor = 0.15 * max(abs(v) for v in change.values())
    return ", ".join(
        f"{'+' if change[k] > 0 else '−'}{format_time(abs(change[k]))} {STEP_PARTS[k]}"
        for k in told[:3]
        if abs(change[k]) >= floor and change[k]
    )


def rivals_table(best: PlanRow, rivals: tuple[Rival, ...]) -> Table:
    body = []
    for rival in rivals:
        axis = rival.axis
        label = rival.row.found.variant.label
        value = label.get(axis, "-") if axis in ("dtype", "comm_dtype") else _cell(axis, rival.row)
        body.append(
            (
                f"{spoken(axis)} {value}",
                training_mesh_words(rival.row.found.layout),
                difference_words(rival.row),
                _why(best, rival.row),
            )
        )
    title = "Nearest rivals: the best layout with another value of each axis"
    header = ("instead", "layout", "to best", "why")
    return Table(title, header, tuple(body), frozenset({0, 1, 3}), header)


def memory_table(r: Report) -> Table:
    """The fullest stage, by part."""
    e = r.estimate
    return Table(
        "Memory per GPU, fullest stage",
        ("part", "size"),
        (
            *(
                (k.removesuffix("_bytes").replace("_", " "), format_memory(v))
                for k, v in r.memory.items()
                if v
            ),
            *_loss_rows(r),
            ("total", format_memory(r.memory_bytes)),
            *_held_rows(r),
            ("usable of the device", format_memory(e.memory_limit_bytes)),
            ("fits", fits_words(r.fits, r.tight)),
        ),
    )


def _held_rows(r: Report) -> list[tuple[str, str]]:
    """What tools show of the same run, who do not show what is allocated."""
    if r.estimate.workload.phase != "train" or r.estimate.stack.ideal:
        return []
    return [
        ("  reserved by the allocator", format_memory(r.reserved_bytes)),
        ("  as the device reports it", format_memory(r.device_bytes)),
    ]


def _loss_rows(r: Report) -> list[tuple[str, str]]:
    """Logits and their gradient at the loss's peak, within the workspace; and without chunks."""
    if not r.loss_bytes:
        return []
    chunks = r.estimate.stack.kernels.loss_chunks
    if chunks == 1:
        return [("  of it at the loss (logits)", format_memory(r.loss_bytes))]
    return [
        (f"  of it at the loss, {chunks} chunks", format_memory(r.loss_bytes)),
        ("  the same in one", format_memory(r.whole_loss_bytes)),
    ]


def near_limit_lines(best: PlanRow, roomy: PlanRow | None, surest: PlanRow | None) -> list[str]:
    """Where the best layout is within the memory's error of the limit: which one is not, and which to
    try first, in full sentences."""
    if not best.tight:
        return []
    said = "The memory of the best is tight: within its error of the limit."
    if roomy is None:
        lines = [said + " None of the layouts that come next is clear of it."]
    else:
        lines = [
            f"{said} The best that is not: {training_mesh_words(roomy.found.layout)}, "
            f"{format_time(roomy.step_s)} ({difference_words(roomy)}), {format_memory(roomy.memory_bytes)} per GPU."
        ]
    if surest is None or surest.found.layout == best.found.layout:
        return lines
    return [
        *lines,
        f"The best fits with a chance of {words.percent(best.fitting_chance)}. To try first: "
        f"{training_mesh_words(surest.found.layout)}, {format_time(surest.step_s)} "
        f"({difference_words(surest)}), which fits with one of {words.percent(surest.fitting_chance)}.",
    ]
