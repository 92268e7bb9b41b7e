"""The public functions that walk along one axis: :func:`scale`, :func:`sweep` and :func:`grow`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Unpack

from meshwise.answers.answers import ScaleResult
from meshwise.arguments import NameOrPath, count_list, given
from meshwise.arguments import degree_list as read_degrees
from meshwise.arguments import named_objects as _parts
from meshwise.checks import flag, keywords
from meshwise.clusters.cluster import Cluster
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.curve import curve, default_degrees
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import fraction, one_of
from meshwise.workloads.workload import Training, Workload

if TYPE_CHECKING:
    from meshwise.answers.growth import GrowthResult
    from meshwise.answers.sweep import SweepResult
    from meshwise.layouts.keywords import TrainingPins

Objective = Literal["efficiency", "latency"]


@keywords
def scale(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Workload,
    *,
    stack: Stack | NameOrPath | None = None,
    tp: int | Sequence[int] | None = None,
    sequence_parallel: bool = False,
    limit_threshold: float = 0.8,
    objective: Objective = "efficiency",
) -> ScaleResult:
    """What tensor parallelism costs from TP=1 to the cluster, and where it stops paying.

    Rests on the program of Megatron-LM (arXiv 1909.08053, sequence parallelism arXiv 2205.05198),
    priced with measured times of kernels and collectives; ``provenance`` of :func:`estimate` names
    them. Speed-up, efficiency and limit are those of ``docs/reference/definitions``.

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param workload: :class:`Training`, :class:`Prefill` or :class:`Decode`, of one replica.
    :param stack: the software; None: the phase's usual one.
    :param tp: degrees to show; None: every power of two that the model and the cluster admit.
    :param sequence_parallel: norms and residuals split along the sequence.
    :param limit_threshold: share of what a doubling adds that it has to pay, from 0.01 to 1.
    :param objective: ``"efficiency"``: the limit is the largest degree that pays; ``"latency"``: the
        degree of the least step.
    :returns: points with seconds, bytes, shares; the limit and its reason.
    :raises InputError: for what is not legal, with ``field``, ``legal`` and ``nearest``.

    >>> import meshwise as mw
    >>> answer = mw.scale("gpt3-175b", "dgx-a100", mw.Training(batch=32, seq=2048), tp=[1, 2, 4, 8])
    >>> [point.tp for point in answer.points], answer.points[3].layer.all_reduces_forward
    ([1, 2, 4, 8], 2)
    """
    threshold = fraction(limit_threshold, "limit_threshold", low=0.01, high=1.0)
    one_of(objective, "objective", ("efficiency", "latency"))
    degrees = read_degrees(tp)
    flag(sequence_parallel, "sequence_parallel")
    spec, where, software = _parts(model, cluster, workload, stack)
    return ScaleResult(
        curve(
            spec,
            where,
            workload,
            software,
            degrees=degrees,
            sequence_parallel=sequence_parallel,
            threshold=threshold,
            objective=objective,
        )
    )


@keywords
def sweep(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Workload,
    sweep: str,
    *,
    stack: Stack | NameOrPath | None = None,
    tp: int | Sequence[int] | None = None,
    sequence_parallel: bool = False,
    limit_threshold: float = 0.8,
    objective: Objective = "efficiency",
) -> SweepResult:
    """:func:`scale` at several values of one quantity, and the value from which each doubling pays.

    Rests on what :func:`scale` rests on; break-evens are solved for, not read off a grid.

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param workload: :class:`Training`, :class:`Prefill` or :class:`Decode`, of one replica.
    :param sweep: ``"NAME=LOW:HIGH"`` or ``"NAME=A,B,C"``, with units: ``"inter.bandwidth=25GB/s:400GB/s"``.
    :param stack: the software; None: the phase's usual one.
    :param tp: degrees to show; None: as :func:`scale`.
    :param sequence_parallel: norms and residuals split along the sequence.
    :param limit_threshold: share of what a doubling adds that it has to pay, from 0.01 to 1.
    :param objective: as in :func:`scale`.
    :returns: per value the points, and the break-evens in the quantity's SI unit.
    :raises InputError: for a quantity that there is none of, and as :func:`scale`.

    >>> import meshwise as mw
    >>> answer = mw.sweep("gpt2", "dgx-a100", mw.Training(batch=8, seq=512), "batch=8,16", tp=[1, 2])
    >>> answer.sweep.name, [v.value for v in answer.values]
    ('batch', [8.0, 16.0])
    """
    from meshwise.answers.sweep import SweepResult
    from meshwise.search.tp_curve import sweep as sweeping

    threshold = fraction(limit_threshold, "limit_threshold", low=0.01, high=1.0)
    one_of(objective, "objective", ("efficiency", "latency"))
    flag(sequence_parallel, "sequence_parallel")
    given(sweep, str, "sweep", "NAME=LOW:HIGH, for example inter.bandwidth=25GB/s:400GB/s")
    spec, where, software = _parts(model, cluster, workload, stack)
    degrees = read_degrees(tp)
    most = max(degrees or default_degrees(spec, where, software)) if sequence_parallel else 1
    known = sweeping.quantities(where, workload, most)
    quantity, values = sweeping.read_sweep(sweep, known)
    return SweepResult(
        sweeping.sweep(
            spec,
            where,
            software,
            quantity,
            values,
            degrees=degrees,
            sequence_parallel=sequence_parallel,
            threshold=threshold,
            objective=objective,
        )
    )


@keywords
def grow(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Training,
    gpus: Sequence[int],
    *,
    stack: Stack | NameOrPath | None = None,
    weak: bool = False,
    limit_threshold: float = 0.8,
    **layout: Unpack[TrainingPins],
) -> GrowthResult:
    """Strong or weak scaling over numbers of GPUs, with the best training layout of each.

    Rests on :func:`plan`, asked once per size.

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`; it grows to the largest size.
    :param workload: :class:`Training`: its batch is that of every size (weak: of the first).
    :param gpus: sizes, ascending.
    :param stack: the software; None: training's usual one.
    :param weak: the batch grows with the GPUs.
    :param limit_threshold: share of what a step adds that it has to pay, from 0.01 to 1.
    :param layout: axes of :func:`plan`, pinned to a value or to several.
    :returns: one point per size: layout, seconds, tokens per second, speed-up, efficiency.
    :raises InputError: for what is not legal, with ``field``, ``legal`` and ``nearest``.

    >>> import meshwise as mw
    >>> answer = mw.grow("gpt2", "dgx-a100", mw.Training(batch=8, seq=512), [1, 2], tp=1)
    >>> [(point.gpus, point.dp) for point in answer.points]
    [(1, 1), (2, 2)]
    """
    from meshwise.answers.growth import GrowthResult
    from meshwise.layouts.pins import read_pins
    from meshwise.search.growth import growth

    threshold = fraction(limit_threshold, "limit_threshold", low=0.01, high=1.0)
    given(workload, Training, "workload", "Training(batch=, seq=)")
    flag(weak, "weak")
    spec, where, software = _parts(model, cluster, workload, stack)
    sizes = count_list(gpus, "gpus")
    pins = read_pins(layout)
    return GrowthResult(
        growth(spec, where, workload, software, sizes, weak=weak, pins=pins), threshold
    )
