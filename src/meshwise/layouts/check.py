"""One layout that a user wrote down: is it whole, and is it legal?"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from meshwise.axes import AXES
from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layout, Layouts, arrays, product_words
from meshwise.layouts.rules.case import case_of, needs_split
from meshwise.layouts.rules.rule import Refusal
from meshwise.layouts.rules.rulebook import FIRST, RULES, broken, refuse
from meshwise.models.formats import model_as_run
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training, Workload


def settled(layout: Layout, model: Model, stack: Stack, phase: str) -> Layout:
    """The layout with sequence parallelism where nobody said it and the software cannot run without."""
    if layout.sequence_parallel is not None or layout.tp == 1:
        return layout
    needed = needs_split(model, stack, phase) or None
    return msgspec.structs.replace(layout, sequence_parallel=needed)


def check(
    layout: Layout,
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    gpus: int | None = None,
    requests: int | None = None,
    *,
    ran: bool = False,
) -> None:
    """Refuse a layout that does not use ``gpus``, or breaks one of :data:`RULES`.

    The model is looked at in the formats that the workload runs it in. ``requests``: in flight over all
    replicas. ``ran``: the layout of a run that somebody measured, with stages cut by hand maybe, on
    software that could run it.

    :raises IllegalLayout: the first rule as the field, all of them in the text.
    """
    model = model_as_run(model, workload)
    _check_gpus(layout, gpus)
    case = case_of(model, stack, workload, arrays(layout, workload), requests, cluster)
    if ran:
        case = case._replace(layout=case.layout._replace(vp=np.int64(1)))
    codes = [c for c in broken(case) if RULES[c].holds_for_runs or not ran]
    if not set(FIRST) & set(codes):
        _check_meaning(layout, workload)
    if not ran:
        check_imbalance(layout.ep, workload)
    refuse(layout, case, codes)


def waived(
    layout: Layout, model: Model, cluster: Cluster, workload: Workload, stack: Stack
) -> str | None:
    """What :func:`check` lets pass because somebody ran the layout, in words; None where nothing."""
    model = model_as_run(model, workload)
    case = case_of(model, stack, workload, arrays(layout, workload), None, cluster)
    codes = broken(case)
    if not codes:
        return None
    found = [RULES[code].sentence(layout, case) for code in codes]
    return "; ".join(f"{r.field}={r.value}: {r.why}" for r in found)


def check_switches(
    model: Model, workload: Workload, stack: Stack, layout: Layouts, codes: Sequence[str]
) -> None:
    """Raise where a layout of TP alone cannot do what a switch of the stack asks."""
    case = case_of(model, stack, workload, layout)
    refuse(Layout(), case, broken(case, codes))


def _check_gpus(layout: Layout, gpus: int | None) -> None:
    if gpus is None or layout.devices == gpus:
        return
    rest = layout.devices // layout.dp
    fix = f"dp={gpus // rest}" if gpus % rest == 0 else None
    why = f"the layout uses {product_words(layout)} GPUs"
    raise Refusal("gpus", gpus, why, f"{layout.devices}", fix).error()


def check_imbalance(ep: int, workload: Workload) -> None:
    """Refuse a fullest rank of experts where every rank has its share of all of them."""
    said = workload.expert_imbalance
    if ep == 1 and said not in (None, 1.0):
        why = "has no meaning with ep=1: every rank has its share of all experts"
        raise Refusal("expert_imbalance", said, why, "1, or `ep` above 1", "1").error()
    if said is not None and said > max(ep, 1):
        why = f"is more than all tokens: the fullest of {ep} ranks has at most {ep} times the mean"
        raise Refusal("expert_imbalance", said, why, f"1 to {ep}", str(ep)).error()


def _check_meaning(layout: Layout, workload: Workload) -> None:
    """Refuse what somebody said of a step that only training has."""
    if isinstance(workload, Training):
        return
    for name, axis in AXES.items():
        value = getattr(layout, name)
        if axis.default is None and axis.phases == ("training",) and value is not None:
            why = f"has no meaning in {workload.phase}"
            raise Refusal(name, value, why, f"leave `{name}` out").error()
