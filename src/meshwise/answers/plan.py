"""``plan`` of a training step: every legal layout ranked, and the reasons."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.evidence import (
    EvidenceRecord,
    PublishedMfu,
    evidence_record,
    published_mfu,
)
from meshwise.answers.records.layout import found_dict, training_row
from meshwise.answers.records.ranked import Ranked
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines, mfu_words
from meshwise.answers.text.sentences import cluster_words, sentence, training_words, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.answers.text.training import (
    STEP_PARTS,
    near_limit_lines,
    rivals_table,
    training_mesh_words,
    training_table,
)
from meshwise.axes import Value, spoken
from meshwise.layouts.pins import pins_record
from meshwise.program.context import widths
from meshwise.search.tp_curve.remarks import run_remarks
from meshwise.search.training.nearest import Change
from meshwise.search.training.plan import Binding, Plan
from meshwise.search.training.question import Planned
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_gpus, format_memory, format_time
from meshwise.workloads.workload import Training
from meshwise.workloads.workload import to_dict as workload_dict

REFUSED_TRAINING = {
    "heads": "TP does not divide the attention heads",
    "kv_heads": "TP neither divides nor is a multiple of the KV heads",
    "kv_copies": "more TP ranks than KV heads, which this stack does not copy",
    "output_groups": "TP does not divide the groups of the output projection",
    "recurrent_heads": "TP does not divide the heads of recurrent layers",
    "key_groups": "TP does not divide the heads of keys of recurrent layers",
    "key_copies": "more TP ranks than heads of keys, which this stack does not copy",
    "norm_groups": "TP does not divide the groups that norms of recurrent layers span",
    "quantization": "a TP shard would hold part of a quantisation group or block",
    "layers": "more pipeline stages than layers",
    "stack": "what this stack cannot run (sharding beside pipelines, virtual stages and so on)",
    "sequence": "CP does not divide the sequence",
    "shared_layers": "a pipeline would part layers from the one whose keys they use",
    "head_exchange": "CP does not divide a TP rank's heads of recurrent layers",
    "batch": "DP does not divide the global batch",
    "loss_chunks": "the loss in more parts than a microbatch has tokens",
    "experts": "EP · expert-TP does not divide TP · CP · DP",
    "exchange": "EP 1 has no exchange of tokens, which `overlap_experts` hides",
    "interleaving": "virtual stages need microbatches that are a multiple of PP",
    "sequence_parallel": "TP does not divide the tokens that sequence parallelism splits",
    "unsplit_experts": "experts beside TP without sequence parallelism, which this stack needs",
    "memory": "do not fit in the device's memory",
}
MOST_ON_PAGE = 12  # layouts of the front on the page; the JSON has all


class ChangeRecord(TypedDict):
    """A change that makes a layout feasible, and the fastest one that it admits."""

    code: str
    value: object
    best: dict[str, object] | None


class PlanCounts(TypedDict):
    """Layouts that were looked at, and why others are not feasible."""

    enumerated: int
    bounded: int
    feasible: int
    refused: dict[str, int]


class PlanRecord(TypedDict):
    """The JSON of ``plan`` for training: seconds, bytes; layouts as rows, the best first."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    formats: dict[str, object]
    stack: dict[str, object]
    gpus: int
    objective: str
    pinned: dict[str, list[Value]]
    best: dict[str, object] | None
    layouts: list[dict[str, object]]
    pareto: list[dict[str, object]]
    rivals: list[dict[str, object]]
    binding: dict[str, object] | None
    rule_of_thumb: dict[str, object] | None
    best_not_tight: dict[str, object] | None
    best_expected: dict[str, object] | None
    evidence: EvidenceRecord | None
    best_published_mfu: PublishedMfu | None
    nearest_feasible: list[ChangeRecord]
    counts: PlanCounts
    partial: bool
    remarks: list[str]
    elapsed_s: float
    compared: NotRequired[dict[str, object]]


class PlanResult(Ranked):
    """The plan of a training step."""

    formats = Key[Record]("Number formats of weights, activations, gradients.")
    best_published_mfu = Key[Record | None](
        "``mfu`` and ``id`` of the device's best published row."
    )
    best_expected = Key[Record | None](
        "Where the best is tight: the least step over its chance to fit."
    )
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

    def to_dict(self) -> PlanRecord:
        record = plan_record(self.planned)
        if self.command is not None:
            from meshwise.answers.compared import read_command_record

            record["compared"] = read_command_record(self.command)
        return record

    def page(self) -> Page:
        page = plan_page(self.planned)
        if self.command is None:
            return page
        from meshwise.answers.compared import with_command

        return with_command(page, self.command)


def plan_record(p: Planned) -> PlanRecord:
    """The JSON of a training plan."""
    answer: Plan = p.plan
    s, best, price = answer.search, answer.best, p.price_per_device_hour
    w = s.searched[0].variant.workload
    return {
        "schema": SCHEMA,
        "model": s.model.name,
        "cluster": cluster_record(s.cluster),
        "workload": without_axes(w),
        "formats": widths(s.model, w, answer.stack)._asdict(),
        "stack": stack_record(answer.stack),
        # what was asked
        "gpus": s.gpus,
        "objective": p.objective,
        "pinned": pins_record(s.pins),
        # what was found
        "best": training_row(best, price) if best else None,
        "layouts": [training_row(r, price) for r in answer.rows],
        "pareto": [training_row(r, price) for r in answer.pareto],
        "rivals": [{"axis": spoken(r.axis), **training_row(r.row, price)} for r in answer.rivals],
        "binding": _binding(answer.binding),
        "rule_of_thumb": training_row(answer.rule_of_thumb, price)
        if answer.rule_of_thumb
        else None,
        "best_not_tight": training_row(answer.roomy, price) if answer.roomy else None,
        "best_expected": training_row(answer.surest, price) if answer.surest else None,
        "evidence": evidence_record(best.question, answer.stack) if best else None,
        "best_published_mfu": _published(answer),
        "nearest_feasible": [_change_record(c) for c in p.changes],
        # of how many
        "counts": {
            "enumerated": s.enumerated,
            "bounded": s.bounded,
            "feasible": s.feasible,
            "refused": {rule: n for rule, n in s.refused.items() if n},
        },
        "partial": s.partial,
        "remarks": run_remarks(s.model, s.cluster, w, answer.stack),
        "elapsed_s": p.elapsed_s,
    }


def _published(answer: Plan) -> PublishedMfu | None:
    """The best published utilisation of the device."""
    s = answer.search
    w = s.searched[0].variant.workload
    return published_mfu(s.cluster.device.name, widths(s.model, w, answer.stack).dtype)


def without_axes(w: Training) -> dict[str, object]:
    """A training step as JSON, without what is an axis of a plan."""
    return {k: v for k, v in workload_dict(w).items() if k not in ("micro_batch", "recompute")}


def _binding(b: Binding | None) -> dict[str, object] | None:
    if b is None:
        return None
    found: dict[str, object] = {"code": b.code, "share": b.share}
    if b.layout is not None:
        found |= {
            "step_s": b.step_s,
            "memory_bytes": b.memory_bytes,
            "layout": b.layout.record("none"),
        }
    return found


def _change_record(change: Change) -> ChangeRecord:
    found = change.found
    best: dict[str, object] | None = None
    if found is not None:
        best = {**found_dict(found), "step_s": found.step_s}
    return {"code": change.code, "value": change.value, "best": best}


def plan_line(answer: Plan) -> str:
    """The best layout, its step and memory."""
    best, partial = answer.best, answer.search.partial
    if best is None:
        return "No layout is feasible" + (" of those looked at" * partial)
    layout = training_mesh_words(best.found.layout)
    ties = sum(row.tie for row in answer.rows[1:])
    said = [
        f"Best {layout}" if not partial else f"Best so far {layout}",
        words.time_words(best.step_s, best.step_low_s, best.step_high_s, "step"),
        f"MFU {words.percent(best.mfu)}",
        words.communication_words(best.exposed_comm_s / best.step_s),
        f"{format_memory(best.memory_bytes)} per GPU" + ", tight" * best.tight,
    ]
    return words.first_line([*said, f"{ties} tie{'s' * (ties == 1)} with it" if ties else ""])


# -- the page --------------------------------------------------------------------------------------


def _heading(p: Planned) -> str:
    s = p.plan.search
    w = s.searched[0].variant.workload
    return (
        f"{s.model.name} on {format_gpus(s.gpus)} of {cluster_words(s.cluster)}: training, global batch "
        f"{w.batch:,} × {w.seq:,} tokens, stack {p.plan.stack.name}"
        f"{training_words(s.model, w, p.plan.stack)}"
    )


def plan_page(p: Planned) -> Page:
    """The ranking, what binds, and as detail rivals and the front; or what would be feasible."""
    answer = p.plan
    counted, refused = _counted(p)
    partial = answer.search.partial
    if answer.best is None:
        said = plan_line(answer)
        if p.changes and not partial:
            said += f"; the smallest change that makes one: {_change_words(p.changes[0])}"
        return Page(_heading(p), (*_nothing(p), *counted, *refused), said)
    rows = list(answer.rows)
    price = p.price_per_device_hour
    parts: list[Table | str] = [
        training_table("", rows, ranks=True, price=price),
        "\n".join(wrap(text, ids=True) for text in _sentences(answer)),
        *evidence_lines(evidence_record(answer.best.question, answer.stack)),
        *counted,
    ]
    detail: list[Table | str] = []
    if answer.rivals:
        detail.append(rivals_table(answer.best, answer.rivals))
    front = list(answer.pareto)[:MOST_ON_PAGE]
    if len(front) > 1:
        title = "Least memory for the step (no other has both less)"
        detail.append(training_table(title, front, ranks=False, price=None))
    return Page(_heading(p), tuple(parts), plan_line(answer), (*detail, *refused))


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
            f"Memory binds: {training_mesh_words(binding.layout)} would be {words.percent(binding.share)} "
            f"faster, but needs {format_memory(binding.memory_bytes)}."
        )
    elif binding is not None and binding.code == "compute":
        said.append(f"Compute binds: it is {words.percent(binding.share)} of the step.")
    elif binding is not None:
        said.append(
            f"What it loses most to is {STEP_PARTS[binding.code]}: {words.percent(binding.share)} of the step."
        )
    said += near_limit_lines(best, answer.roomy, answer.surest)
    if not answer.stack.ideal:
        device = answer.search.cluster.device.title
        said.append(mfu_words(best.mfu, _published(answer), device))
    thumb = answer.rule_of_thumb
    if thumb is not None:
        loses = "is the best" if thumb.difference_s <= 0 else f"loses {_lost(thumb)}"
        said.append(
            "Rule of thumb (TP fills the node, the fewest pipeline stages that fit, DP the rest): "
            f"{training_mesh_words(thumb.found.layout)}, {format_time(thumb.step_s)}, {loses}."
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
    why = [f"  {n:,}: {REFUSED_TRAINING[rule]}" for n, rule in reversed(refused)]
    if s.partial:
        said.insert(0, "Interrupted: this is what was found so far; other layouts may be better.")
    stack, w, _ = s.searched[0].variant
    notes = run_remarks(s.model, s.cluster, w, stack)
    told = [*map(sentence, notes), "\n".join(said)]
    return told, ["\n".join(["Not feasible, by the first rule that refuses:", *why])] if why else []


def _nothing(p: Planned) -> list[Table | str]:
    if p.plan.search.partial:
        return ["No feasible layout was found before the interruption."]
    said = ["No layout is feasible."]
    if p.changes:
        said.append("The smallest change of each kind that makes one:")
    return [*["\n".join([*said, *(f"  {_change_words(c)}" for c in p.changes)])]]


def _change_words(c: Change) -> str:
    best = ""
    if c.found is not None:
        best = f": {training_mesh_words(c.found.layout)}, {format_time(c.found.step_s)}"
    if c.code.startswith("free_"):
        axis = c.code.removeprefix("free_")
        axis = spoken(axis)
        value = ""
        if c.found is not None:
            best_value = found_dict(c.found)[axis]
            said = str(best_value).lower() if isinstance(best_value, bool) else best_value
            value = f" (for example {said})"
        return f"another `{axis}`{value}{best}"
    if c.code == "device_memory":
        return f"GPUs with at least {format_memory(c.value or 0.0)}"
    return f"`{c.code}={c.value}`{best}"
