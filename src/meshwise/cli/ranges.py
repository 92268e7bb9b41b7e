"""Lists of whole numbers with ranges in them: ``1,2,4`` and ``1-8``, which stands for what is legal
between its ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from meshwise.errors import InputError, MeshwiseError, quoted

if TYPE_CHECKING:
    from meshwise.api import Cluster, Model, Serving, Stack, Training

_RANGE = re.compile(r"\s*([\d_.]+[kKmM]?)\s*(?:-|–|\.\.)\s*([\d_.]+[kKmM]?)\s*")
MOST = 100_000  # numbers that are looked at, one by one


def ends(text: str) -> tuple[int, int] | None:
    """Both ends of ``1-8``; None where the text is no range."""
    from meshwise.strict_tables import as_digits

    found = _RANGE.fullmatch(text)
    low, high = (as_digits(part) for part in found.groups()) if found else ("", "")
    return (int(low), int(high)) if low.isdigit() and high.isdigit() else None


def listed(
    text: str, option: str, legal: Callable[[int, int], Iterable[int]], example: str = "1,2,4"
) -> list[str]:
    """The numbers of a list, its ranges opened: ``legal`` names what they hold."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        kept = ",".join(part for part in parts if part)
        raise InputError(
            f"{option}: {quoted(text)} has an empty place",
            field=option,
            value=text,
            legal=f"whole numbers with commas between them, such as {example}, or a range such as 1-8",
            nearest=kept[:80] or example,
        )
    found: list[str] = []
    for part in parts:
        span = ends(part)
        found += [part] if span is None else [str(n) for n in _within(part, span, option, legal)]
    return list(dict.fromkeys(found))


def _within(
    text: str, span: tuple[int, int], option: str, legal: Callable[[int, int], Iterable[int]]
) -> list[int]:
    low, high = span
    if low > high:
        raise InputError(
            f"{option}: {quoted(text)} is no range",
            field=option,
            value=text,
            legal="LOW-HIGH with LOW below HIGH, such as 1-8",
            nearest=f"{high}-{low}",
        )
    found = list(legal(low, high))
    if not found:
        every = list(legal(1, MOST))
        raise InputError(
            f"{option}: nothing from {low} to {high} is legal here",
            field=option,
            value=text,
            legal=every or "leave it out",
            nearest=min(every, key=lambda n: abs(n - low)) if every else None,
        )
    return found


def tp_degrees(text: str, model: Model, cluster: Cluster, stack: Stack) -> list[str]:
    """The degrees of ``--tp 1,2`` or ``1-8``; a range's are the legal ones that the cluster holds."""
    from meshwise.layouts.tp_degrees import legal_tp

    def legal(low: int, high: int) -> list[int]:
        return [tp for tp in legal_tp(model, stack) if low <= tp <= min(high, cluster.devices)]

    return listed(text, "--tp", legal)


def pins(
    given: dict[str, str], model: Model, gpus: int, work: Training | Serving, stack: Stack
) -> dict[str, list[str]]:
    """A plan's lists of degrees; a range's are those that the plan's own rules do not refuse."""
    return {
        axis: listed(
            text,
            "--" + axis.replace("_", "-"),
            lambda low, high, axis=axis: _legal(axis, low, high, model, gpus, work, stack),  # type: ignore[misc]
        )
        for axis, text in given.items()
    }


def _legal(
    axis: str, low: int, high: int, model: Model, gpus: int, work: Any, stack: Stack
) -> list[int]:
    from meshwise.models.formats import model_as_run
    from meshwise.search.serving.question import check_serving_pins
    from meshwise.search.training.question import check_pins
    from meshwise.workloads.workload import Training

    trains = isinstance(work, Training)
    spec = model_as_run(model, work if trains else work.decode())

    def allowed(value: int) -> bool:
        try:
            if trains:
                check_pins(spec, stack, work, gpus, {axis: (value,)})
            else:
                check_serving_pins(spec, stack, work, gpus, {axis: (value,)})
        except MeshwiseError:
            return False
        return True

    return [n for n in _candidates(axis, spec, gpus, work) if low <= n <= high and allowed(n)]


def _candidates(axis: str, model: Model, gpus: int, work: Any) -> list[int]:
    """What an axis may be split into at all."""
    from meshwise.layouts.rules.rule import divisors

    if axis == "ep":
        return divisors(max((b.moe.experts for b in model.blocks if b.moe is not None), default=1))
    if axis == "vp":
        return list(range(1, model.layers + 1))
    return divisors(work.batch if axis == "micro_batch" else gpus)
