"""What ``plan`` shows: the ranking and its reasons in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from meshwise.answers import first_line
from meshwise.answers.attributes import Key, Record
from meshwise.answers.pages import cluster_words, wrap
from meshwise.answers.plan_records import found_dict, plan_dict
from meshwise.answers.text import words
from meshwise.answers.text.result import Placed
from meshwise.answers.text.tables import Page, Table
from meshwise.axes import AXES, PLACEMENTS, spoken
from meshwise.layouts.layout import Layout
from meshwise.search.compare import Compared, ComparedServing
from meshwise.search.tp_curve.curve import run_remarks
from meshwise.search.training.nearest import Change
from meshwise.search.training.plan import Plan, Rival
from meshwise.search.training.question import Planned
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_memory, format_time

if TYPE_CHECKING:
    from meshwise.launch.read import Parsed

REFUSED = {
    "heads": "TP does not divide the attention heads",
    "kv_heads": "TP neither divides nor is a multiple of the KV heads",
    "kv_copies": "more TP ranks than KV heads, which this stack does not copy",
    "quantization": "a TP shard would hold part of a quantisation group or block",
    "layers": "more pipeline stages than layers",
    "stack": "what this stack cannot run (sharding beside pipelines, virtual stages and so on)",
    "sequence": "CP does not divide the sequence",
    "batch": "DP does not divide the global batch",
    "loss_chunks": "the loss in more parts than a microbatch has tokens",
    "experts": "EP · expert-TP does not divide TP · CP · DP",
    "exchange": "EP 1 has no exchange of tokens, which `overlap_experts` hides",
    "interleaving": "virtual stages need microbatches that are a multiple of PP",
    "sequence_parallel": "TP does not divide the tokens that sequence parallelism splits",
    "unsplit_experts": "experts beside TP without sequence parallelism, which this stack needs",
    "memory": "do not fit in the device's memory",
}
PARTS = {
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
SHORT = {"none": "-", "selective": "sel", "full": "full"}
MOST_POINTS = 12  # of the front on the page; the JSON has all


class Beside(NamedTuple):
    """A launch command as it was read, and its price beside a plan's best."""

    parsed: Parsed
    priced: Compared | ComparedServing


class Ranked(Placed):
    """What plans of training and of serving have in common."""

    ROWS = "layouts"
    gpus = Key[int]("GPUs of every layout.")
    objective = Key[str]("What the layouts are ranked by.")
    pinned = Key[Record]("Axes that were given, each with its values.")
    best = Key[Record | None]("The first of ``layouts``; None where nothing is feasible.")
    layouts = Key[list[Record]]("The best first: axes, times [s], memory [bytes].")
    pareto = Key[list[Record]]("Layouts that no other beats in both figures of the front.")
    rivals = Key[list[Record]]("Per axis the best layout with another value of it.")
    rule_of_thumb = Key[Record | None]("The layout that the usual rule of thumb makes.")
    nearest_feasible = Key[list[Record]]("Where nothing is feasible: changes that make it so.")
    counts = Key[Record]("How many layouts were enumerated, feasible, refused and why.")
    elapsed_s = Key[float]("Time that the search took [s].")
    remarks = Key[list[str]]("What to know of the answer.")
    beside: Beside | None = None  # a command to hold against the plan

    @property
    def compared(self) -> Record | None:
        """A launch command that the plan is held against, where there is one."""
        return self.figures.get("compared")


class PlanResult(Ranked):
    """The plan of a training step."""

    formats = Key[Record]("Number formats of weights, activations, gradients.")
    binding = Key[Record | None]("What keeps the best from being faster: ``code`` and ``share``.")

    def __init__(self, planned: Planned) -> None:
        self.planned = planned

    @property
    def feasible(self) -> bool:
        """Whether any layout is."""
        return self.planned.plan.best is not None

    @property
    def partial(self) -> bool:
        """Whether an interrupt ended the search early."""
        return self.planned.plan.search.partial

    def to_dict(self) -> dict[str, Any]:
        return with_compared(plan_dict(self.planned), self.beside)

    def page(self) -> Page:
        return page_with_compared(plan_page(self.planned), self.beside)


def with_compared(record: dict[str, Any], compared: Beside | None) -> dict[str, Any]:
    """A plan's record with the command that it is held against."""
    if compared is None:
        return record
    from meshwise.answers.launch import compared_dict, said_dict, verdict

    priced = compared_dict(compared.priced)
    told = {**said_dict(compared.parsed), **priced, "verdict": verdict(compared.priced)}
    return record | {"compared": told}


def page_with_compared(page: Page, compared: Beside | None) -> Page:
    if compared is None:
        return page
    from meshwise.answers.launch import compared_parts, said_words, verdict

    told = (*said_words(compared.parsed), *compared_parts(compared.priced))
    answer = f"{page.answer}; yours: {verdict(compared.priced)}"
    return page._replace(parts=(*page.parts, "Beside your command:", *told), answer=answer)


def mesh_words(layout: Layout) -> str:
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
    if value in SHORT or value == "none":
        return SHORT.get(value, "-")
    return str(value)


def _step(row: PlanRow) -> str:
    return (
        f"{format_time(row.step_s)} {words.interval(row.step_s, row.step_low_s, row.step_high_s)}"
    )


def _table(title: str, rows: list[PlanRow], *, ranks: bool, price: float | None) -> Table:
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
            _difference(row),
        ]
        if price is not None:
            cells.append(f"{price * row.devices / 3600.0 / row.tokens_per_s * 1e9:,.0f}")
        body.append(tuple(cells))
    later = ("memory", "to best", "$/1B tokens")
    keep = (*header[: header.index("step") + 1], *(["memory"] if not ranks else []))
    return Table(title, tuple(header), tuple(body), frozenset(), keep, later)


def _difference(row: PlanRow) -> str:
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
        f"{'+' if change[k] > 0 else '−'}{format_time(abs(change[k]))} {PARTS[k]}"
        for k in told[:3]
        if abs(change[k]) >= floor and change[k]
    )


def _rivals(best: PlanRow, rivals: tuple[Rival, ...]) -> Table:
    body = []
    for rival in rivals:
        axis = rival.axis
        label = rival.row.found.variant.label
        value = label.get(axis, "-") if axis in ("dtype", "comm_dtype") else _cell(axis, rival.row)
        named = spoken(axis)
        body.append(
            (
                f"{named} {value}",
                mesh_words(rival.row.found.layout),
                _difference(rival.row),
                _why(best, rival.row),
            )
        )
    title = "Nearest rivals: the best layout with another value of each axis"
    header = ("instead", "layout", "to best", "why")
    return Table(title, header, tuple(body), frozenset({0, 1, 3}), header)


def _heading(p: Planned) -> str:
    s = p.plan.search
    w = s.searched[0].variant.workload
    return (
        f"{s.model.name} on {words.gpus(s.gpus)} of {cluster_words(s.cluster)}: training, global batch "
        f"{w.batch:,} × {w.seq:,} tokens, stack {p.plan.stack.name}"
        f"{words.gradients(s.model, w, p.plan.stack)}"
    )


def plan_page(p: Planned) -> Page:
    answer = p.plan
    counted, refused = _counted(p)
    partial = answer.search.partial
    if answer.best is None:
        said = first_line.planned(None, "", 0, partial)
        if p.changes and not partial:
            said += f"; the smallest change that makes one: {_change(p.changes[0])}"
        return Page(_heading(p), (*_nothing(p), *counted, *refused), said)
    rows = list(answer.rows)
    price = p.price_per_device_hour
    parts: list[Table | str] = [
        _table("", rows, ranks=True, price=price),
        "\n".join(wrap(text) for text in _sentences(answer)),
        *counted,
    ]
    detail: list[Table | str] = []
    if answer.rivals:
        detail.append(_rivals(answer.best, answer.rivals))
    front = list(answer.pareto)[:MOST_POINTS]
    if len(front) > 1:
        title = "Least memory for the step (no other has both less)"
        detail.append(_table(title, front, ranks=False, price=None))
    ties = sum(row.tie for row in answer.rows[1:])
    said = first_line.planned(answer.best, mesh_words(answer.best.found.layout), ties, partial)
    return Page(_heading(p), tuple(parts), said, (*detail, *refused))


def _sentences(answer: Plan) -> list[str]:
    best = answer.best
    assert best is not None
    said = [f"{best.tokens_per_s_per_device:,.0f} tokens/s per GPU."]
    ties = [r for r in answer.rows[1:] if r.tie]
    if ties:
        said.append(
            f"{len(ties)} of the {len(answer.rows)} shown tie with it: their difference is within its "
            "own 90% interval."
        )
    binding = answer.binding
    if binding is not None and binding.code == "memory":
        assert binding.layout is not None and binding.memory_bytes is not None
        said.append(
            f"Memory binds: {mesh_words(binding.layout)} would be {words.percent(binding.share)} "
            f"faster, but needs {format_memory(binding.memory_bytes)}."
        )
    elif binding is not None and binding.code == "compute":
        said.append(f"Compute binds: it is {words.percent(binding.share)} of the step.")
    elif binding is not None:
        said.append(
            f"What it loses most to is {PARTS[binding.code]}: {words.percent(binding.share)} of the step."
        )
    thumb = answer.rule_of_thumb
    if thumb is not None:
        loses = "is the best" if thumb.difference_s <= 0 else f"loses {_lost(thumb)}"
        said.append(
            "Rule of thumb (TP fills the node, the fewest pipeline stages that fit, DP the rest): "
            f"{mesh_words(thumb.found.layout)}, {format_time(thumb.step_s)}, {loses}."
        )
    return said


def _lost(row: PlanRow) -> str:
    share = row.difference_s / (row.step_s - row.difference_s)
    return f"{words.percent(share)} (a tie)" if row.tie else words.percent(share)


def _counted(p: Planned) -> tuple[list[str], list[str]]:
    """What is to be said of the run and how many layouts were looked at; why others are not legal."""
    s = p.plan.search
    said = [
        f"{s.enumerated:,} layouts looked at, {s.feasible:,} feasible"
        + (
            f"; of these {s.bounded:,} are placements that a bound shows to be no better than those "
            "above."
            if s.bounded
            else "."
        )
    ]
    refused = sorted((n, rule) for rule, n in s.refused.items() if n)
    why = [f"  {n:,}: {REFUSED[rule]}" for n, rule in reversed(refused)]
    if s.partial:
        said.insert(0, "Interrupted: this is what was found so far; other layouts may be better.")
    stack, w, _ = s.searched[0].variant
    notes = run_remarks(s.model, s.cluster, w, stack)
    told = [*(wrap(f"{note[0].upper()}{note[1:]}.") for note in notes), "\n".join(said)]
    return told, ["\n".join(["Not feasible, by the first rule that refuses:", *why])] if why else []


def _nothing(p: Planned) -> list[Table | str]:
    if p.plan.search.partial:
        return ["No feasible layout was found before the interruption."]
    said = ["No layout is feasible."]
    if p.changes:
        said.append("The smallest change of each kind that makes one:")
    return [*["\n".join([*said, *(f"  {_change(c)}" for c in p.changes)])]]


def _change(c: Change) -> str:
    best = ""
    if c.found is not None:
        best = f": {mesh_words(c.found.layout)}, {format_time(c.found.step_s)}"
    if c.code.startswith("free_"):
        axis = c.code.removeprefix("free_")
        axis = spoken(axis)
        value = f" (for example {found_dict(c.found)[axis]})" if c.found is not None else ""
        return f"another `{axis}`{value}{best}"
    if c.code == "device_memory":
        return f"GPUs with at least {format_memory(c.value)}"
    return f"`{c.code}={c.value}`{best}"
