"""``plan --target``: only layouts that a launch target can be told, and accepts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshwise.axes import AXES, SERVES, TRAINS
from meshwise.errors import InputError, MeshwiseError
from meshwise.launch.job import SAID_PLACEMENTS

if TYPE_CHECKING:
    from meshwise.answers.plan import PlanResult
    from meshwise.answers.plan_serving import ServingPlanResult
    from meshwise.launch.job import Job
    from meshwise.launch.table import Target
    from meshwise.search.serving.plan import ServingRow

MOST_ROWS = 1000
# what is tried of an axis beside its plain value, and those of other axes that it may need
_TRIED: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("pp", "cp", "ep", "dcp"), (2,)),
    "vp": (2, 3),
    "recompute": ("selective", "full"),
    "shard": ("none", "zero1", "zero2", "zero3"),
    "sequence_parallel": (False, True),
    "placement": SAID_PLACEMENTS[1:],  # any other puts ranks as no target does
    "overlap": ("decomposed",),
}
_PLAIN: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("shard", "sequence_parallel"), ()),
    **dict.fromkeys(("recompute", "overlap"), ("none",)),
    "placement": SAID_PLACEMENTS[:1],
}
# plain replicas of an engine may be servers of their own, which no flag of its says
_APART = ("dp", "micro_batch", "decomposed")
_AXES = frozenset((*AXES, "overlap")) - set(_APART)


def rows_asked(top: int) -> int:
    """Rows to rank, of which ``top`` remain."""
    return min(MOST_ROWS, max(50, 5 * top))


def pins_of(chosen: Target, given: Mapping[str, object]) -> dict[str, tuple[object, ...]]:
    """The values of every axis that some command of the target says, where those are not all; axes that
    are ``given`` are as they are."""
    axes = (*TRAINS, "overlap") if chosen.phase == "train" else SERVES
    found: dict[str, tuple[object, ...]] = {}
    for axis, tried in _TRIED.items():
        if axis not in axes or axis in given or (chosen.phase, axis) == ("serve", "placement"):
            continue
        said = [v for v in tried if _says(chosen, axis, v)]
        if len(said) < len(tried) or axis == "placement":
            found[axis] = (*_PLAIN.get(axis, (1,)), *said)
    return {axis: values for axis, values in found.items() if values}


def _says(chosen: Target, axis: str, value: object) -> bool:
    """Whether the target says a value in some small layout: with or without TP and stages."""
    from meshwise.launch import job_of

    for tp in (2, 1):
        for pp in (1, 2):
            degrees: dict[str, object] = {"tp": tp, "pp": pp, "dp": 4, axis: value}
            degrees["etp"] = 1 if axis == "ep" else tp
            degrees["sequence_parallel"] = axis == "overlap" or (
                value if axis == "sequence_parallel" else axis == "ep" and tp > 1
            )
            if axis == "vp" and pp == 1:
                continue
            if chosen.phase == "serve":
                degrees.pop("sequence_parallel")
            sizes: dict[str, object] = {
                "micro_batch": 1,
                "global_batch": 32,
                "seq": 1024,
                "dtype": "bf16",
            }
            more = sizes if chosen.phase == "train" else {}
            try:
                job = job_of("", chosen.phase, degrees | more)
            except MeshwiseError:
                continue
            if runs(job, chosen):
                return True
    return False


def runs(job: Job, chosen: Target) -> bool:
    """Whether the target accepts the job's layout and says all of it."""
    return why_not_run(job, chosen) is None


def why_not_run(job: Job, chosen: Target) -> str | None:
    """Why the target does not run the job's layout; None where it does."""
    from meshwise.launch.settings.switches import as_said
    from meshwise.launch.write import write_launch

    try:
        said = write_launch(as_said(job, chosen.name), chosen.name)
    except MeshwiseError as error:
        return error.sentence
    unsaid = {k: why for k, why in said.untranslated.items() if k in _AXES}
    return next((f"{chosen.title} is not told {k} {why}" for k, why in unsaid.items()), None)


def _none_left(row: Job, chosen: Target) -> InputError:
    return InputError(
        f"--target={chosen.name}: of the layouts that are ranked it runs none: {why_not_run(row, chosen)}",
        field="--target",
        value=chosen.name,
        legal="other axes, or another target",
    )


def offer(result: PlanResult | ServingPlanResult, chosen: Target, top: int) -> None:
    """Take what the target does not run out of a plan."""
    from meshwise.answers.plan import PlanResult

    if isinstance(result, PlanResult):
        _offer_training(result, chosen, top)
    else:
        _offer_serving(result, chosen, top)


def _offer_training(result: PlanResult, chosen: Target, top: int) -> None:
    from meshwise.answers.records.layout import training_row
    from meshwise.search.training.rows import PlanRow, against

    plan = result.planned.plan
    work = plan.search.searched[0].variant.workload if plan.search.searched else None

    sizes: dict[str, object] = {} if work is None else {"global_batch": work.batch, "seq": work.seq}

    def job(row: PlanRow) -> Job:
        return _job(plan.search.model.name, "train", training_row(row), sizes)

    def able(row: PlanRow | None) -> bool:
        return row is not None and runs(job(row), chosen)

    kept = list(itertools.islice((row for row in plan.rows if able(row)), top))
    if plan.rows and not kept:
        raise _none_left(job(plan.rows[0]), chosen)
    best = kept[0] if kept else None
    if best is not None and best is not plan.rows[0]:
        kept = [against(best, row, plan.stack.ideal) for row in kept]
    same = best is not None and best is plan.rows[0]
    plan = plan._replace(
        rows=tuple(kept),
        rivals=tuple(r for r in plan.rivals if able(r.row)),
        pareto=tuple(r for r in plan.pareto if able(r)),
        binding=plan.binding if same else None,
        roomy=plan.roomy if able(plan.roomy) else None,
        surest=plan.surest if able(plan.surest) else None,
        rule_of_thumb=plan.rule_of_thumb if able(plan.rule_of_thumb) else None,
    )
    result.planned = result.planned._replace(plan=plan)


def _offer_serving(result: ServingPlanResult, chosen: Target, top: int) -> None:
    from meshwise.answers.records.layout import serving_row

    planned = result.planned
    plan = planned.plan

    sizes: dict[str, object] = {"max_len": plan.workload.isl + plan.workload.osl}

    def job(row: ServingRow) -> Job:
        return _job(plan.model.name, "serve", serving_row(row), sizes)

    def able(row: ServingRow | None) -> bool:
        return row is not None and runs(job(row), chosen)

    kept = list(itertools.islice((row for row in plan.rows if able(row)), top))
    if plan.rows and not kept:
        raise _none_left(job(plan.rows[0]), chosen)
    same = bool(kept) and kept[0] is plan.rows[0]
    plan = plan._replace(
        rows=tuple(kept),
        pareto=tuple(r for r in plan.pareto if able(r)),
        rivals=tuple((axis, r) for axis, r in plan.rivals if able(r)),
        roomy=plan.roomy if able(plan.roomy) else None,
        averaged=plan.averaged if same else None,
        rule_of_thumb=plan.rule_of_thumb if able(plan.rule_of_thumb) else None,
    )
    result.planned = planned._replace(served=planned.served._replace(plan=plan))


def _job(model: str, phase: str, row: dict[str, object], sizes: dict[str, object]) -> Job:
    from meshwise import launch
    from meshwise.launch.job import DEGREES

    axes = (*TRAINS, "overlap") if phase == "train" else (*DEGREES, "concurrency")
    own = {k: v for k, v in row.items() if k in axes}
    return launch.job_of(model, phase, own | sizes)
