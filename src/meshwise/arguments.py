"""Arguments of public functions: names looked up, seconds, prices and lists of degrees checked."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Mapping
from typing import TypeGuard, cast

from meshwise.checks import not_a
from meshwise.clusters.load import Cluster, load_cluster
from meshwise.errors import InputError, quoted
from meshwise.models.formats import model_as_run
from meshwise.models.load import load_model
from meshwise.models.parameters import has_towers
from meshwise.models.shapes import Model
from meshwise.stacks.load import load_stack, must_run_models
from meshwise.stacks.stack import DEFAULT, Stack
from meshwise.strict_tables import count, fraction
from meshwise.units import BYTES, parse_quantity
from meshwise.workloads.workload import Decode, Prefill, Training, Workload

NameOrPath = str | os.PathLike[str]  # a name or a path
MAX_PRICE = 1e6  # dollars per device and hour


def given(value: object, kinds: type | tuple[type, ...], field: str, legal: str) -> None:
    """Refuse what is not an object of these types."""
    if not isinstance(value, kinds):
        raise not_a("what it has to be", field, value, legal)


def degree_list(tp: object, field: str = "tp") -> list[int] | None:
    """One degree or several, ascending as they are given."""
    if tp is None:
        return None
    return count_list([tp] if isinstance(tp, (str, numbers.Number)) else tp, field)


def count_list(values: object, field: str) -> list[int]:
    """At least one whole number."""
    found = list(values) if _listed(values) else []
    if not found:
        raise not_a("a list of whole numbers", field, values, "one or several, such as [1, 2, 4]")
    return [count(v, field) for v in found]


def name_list(values: object, field: str) -> tuple[str, ...]:
    """A list of names; a text alone is one."""
    if isinstance(values, str):
        return (values,)
    if not _listed(values):
        raise not_a("a list of names", field, values, "a list of names")
    return tuple(cast(Iterable[str], values))  # each is looked up later


def _listed(values: object) -> TypeGuard[Iterable[object]]:
    return isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))


def usd_per_device_hour(value: object, field: str = "price_per_device_hour") -> float | None:
    """Dollars per device and hour."""
    return None if value is None else fraction(value, field, low=0.0, high=MAX_PRICE)


def whole_bytes(size: object, field: str) -> float:
    """A size in bytes; a number or text with a unit."""
    found = parse_quantity(size, BYTES, field, bare=True)
    if found != int(found):
        raise InputError(
            f"{field}: {quoted(size)} is no whole number of bytes",
            field=field,
            value=size,
            legal="whole bytes, or a size with its unit, such as 1.6 GB",
            nearest=f"{size} GB",
        )
    return found


def _no_experts(model: Model, workload: Workload) -> None:
    """Refuse an imbalance or a skew of experts that the model does not have."""
    if any(block.moe is not None for block in model.blocks):
        return
    if workload.expert_imbalance not in (None, 1.0):
        raise InputError(
            f"expert_imbalance={workload.expert_imbalance:g}: {model.name} has no experts",
            field="expert_imbalance",
            value=workload.expert_imbalance,
            legal="1",
            nearest=1,
        )
    if workload.expert_skew:
        raise InputError(
            f"expert_skew={workload.expert_skew:g}: {model.name} has no experts",
            field="expert_skew",
            value=workload.expert_skew,
            legal="leave `expert_skew` out",
            nearest=0,
        )


def _no_towers(model: Model, workload: Workload) -> None:
    """Refuse tokens of images where the model has nothing that makes them."""
    tokens = 0 if isinstance(workload, Training) else workload.image_tokens
    if tokens and not has_towers(model):
        raise InputError(
            f"image_tokens={tokens}: {model.name} has no encoder of images or sounds",
            field="image_tokens",
            value=tokens,
            legal="leave `image_tokens` out, or a multimodal model",
            nearest=0,
        )


def named_objects(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Workload,
    chosen: Stack | NameOrPath | None,
) -> tuple[Model, Cluster, Stack]:
    """Names looked up, the phase's own stack where none is given."""
    if not isinstance(workload, (Training, Prefill, Decode)):
        raise InputError(
            f"workload: {quoted(workload)} is no workload",
            field="workload",
            value=workload,
            legal="Training(batch=, seq=), Prefill(batch=, seq=) or Decode(batch=, context=)",
        )
    spec = model_as_run(load_model(model), workload)
    _no_experts(spec, workload)
    _no_towers(spec, workload)
    where = load_cluster(cluster, field="cluster")
    software = load_stack(DEFAULT[workload.phase] if chosen is None else chosen)
    must_run_models(software, workload.phase)
    return spec, where, software
