"""A training row as the command line would have it: a model, a cluster, a workload, a stack, a layout;
and the values that the row leaves open."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from meshwise.axes import RECOMPUTE_MODES
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.evidence import hardware
from meshwise.evidence.prediction import model_of, operand_of
from meshwise.evidence.rows import words
from meshwise.evidence.software import RowSoftware, software_of
from meshwise.evidence.tables import Assumed, Row
from meshwise.layouts.check import check, settled, waived
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.parameters import missing_parts
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Formats, Training

_DEGREES = ("tp", "pp", "dp", "cp")
_WORDS = "·".join(_DEGREES)


class TrainingJob(NamedTuple):
    """What :func:`meshwise.estimate` takes."""

    model: Model
    cluster: Cluster
    workload: Training
    stack: Stack
    layout: Layout

    def price(self) -> Estimate:
        """The step of a run that somebody measured; a layout that nothing runs is refused."""
        layout = settled(self.layout, self.model, self.stack, "train")
        check(layout, self.model, self.cluster, self.workload, self.stack, ran=True)
        return price_layouts(
            self.model, self.cluster, self.workload, self.stack, arrays(layout, self.workload)
        )

    def waived(self) -> str | None:
        """Why :func:`meshwise.estimate` refuses the layout, which somebody ran all the same."""
        layout = settled(self.layout, self.model, self.stack, "train")
        return waived(layout, self.model, self.cluster, self.workload, self.stack)

    def with_layout(self, **axes: object) -> TrainingJob:
        """The same under another layout."""
        return self._replace(layout=msgspec.structs.replace(self.layout, **axes))

    def recomputing(self, mode: str) -> TrainingJob:
        """The same with another recomputation."""
        return self._replace(workload=msgspec.structs.replace(self.workload, recompute=mode))


class TrainingRow(NamedTuple):
    """A row's job, what had to be assumed of it, and which of its values the row leaves open."""

    job: TrainingJob
    software: RowSoftware
    assumed: tuple[Assumed, ...]
    open: frozenset[str]


def read_training_row(row: Row, folder: Path, named: Stack | None = None) -> TrainingRow:
    """A row as a job. What it does not say has a value here, an entry of ``assumed``, and where that
    steers the price a name in ``open``."""
    model = model_of(row, folder)
    devices = row.count("devices")
    # software and hardware
    software = software_of(row, row.text("stack"), "train", named)
    per_node, node = hardware.node_devices(row, devices)
    cluster, lacking, unsure = _cluster(row, devices, per_node)
    # the layout: replicas are what the other degrees leave
    degrees, unsaid = _degrees(row, devices)
    several = degrees["dp"] * degrees["cp"] > 1
    said = {
        "vp": None if degrees["pp"] == 1 else row.text("vp"),
        "shard": None if not several else row.text("shard"),
        "sequence_parallel": None if degrees["tp"] == 1 else row.text("sequence_parallel"),
        "micro_batch": row.text("micro_batch"),
        "recompute": row.text("recompute"),
    }
    layout = Layout(
        **degrees,
        vp=row.count("vp", 1),
        ep=row.count("ep", 1),
        etp=row.count("etp", 1) if row.count("ep", 1) > 1 and row.text("etp") else None,
        micro_batch=row.count("micro_batch", 1),
        sequence_parallel=row.flag("sequence_parallel") if said["sequence_parallel"] else None,
        shard=words.shard_of(row) or "none",
    )
    workload = Training(
        batch=row.count("global_batch"),
        seq=row.count("seq"),
        recompute=words.recompute_of(row) or RECOMPUTE_MODES[0],
        formats=Formats(dtype=operand_of(row), gradients=row.text("grad_dtype") or None),
    )
    _refuse_lacking(row, model, software.stack)
    job = TrainingJob(model, cluster, workload, software.stack, layout)
    left = frozenset(name for name, cell in said.items() if cell == "")
    assumed = (*unsaid, *_formats(row, job), *software.assumed, *node, *lacking)
    if unsure:
        left |= {"inter_node_gbytes_per_s"}
    return TrainingRow(job, software, assumed, left)


def _refuse_lacking(row: Row, model: Model, stack: Stack) -> None:
    """Refuse what a row says of a part of a layer that its model does not have."""
    missing = missing_parts(model)
    if row.text("dispatcher") and "experts" in missing:
        raise row.wrong("dispatcher", f"{model.name} has {missing['experts']}", "an empty cell")
    for part in stack.memory.recompute_modules if row.text("recompute_modules") else ():
        if part in missing:
            raise row.wrong(
                "recompute_modules", f"{part}: {model.name} has {missing[part]}", "others"
            )


def _cluster(row: Row, devices: int, per_node: int) -> tuple[Cluster, tuple[Assumed, ...], bool]:
    """The cluster of a row, what of it the row does not say, and whether the rate of its network is
    among that: a rate per device, else the network in words."""
    if row.text("inter_node") and not row.text("inter_node_gbytes_per_s"):
        return hardware.collective_cluster(row, devices, per_node)
    rate = row.text("inter_node_gbytes_per_s")
    network = (
        hardware.network_by_rate(
            row.number("inter_node_gbytes_per_s", high=hardware.MAX_GBYTES_PER_S), per_node
        )
        if rate
        else None
    )
    cluster, lacking = hardware.cluster_of(row, devices, per_node, network)
    return cluster, lacking, any(a.field == "inter_node_gbytes_per_s" for a in lacking)


def _degrees(row: Row, devices: int) -> tuple[dict[str, Any], tuple[Assumed, ...]]:
    """Degrees that multiply to the devices. What the stated ones leave is the replicas', or where these
    are stated that of the first degree that is not; the others are 1."""
    found: dict[str, Any] = {name: row.count(name, 1) for name in _DEGREES}
    unsaid = [name for name in _DEGREES if not row.text(name)]
    product = math.prod(found.values())
    if devices % product:
        raise row.wrong(
            "devices", f"{_WORDS} = {product} does not divide {devices}", f"a multiple of {product}"
        )
    if devices != product:
        if not unsaid:
            raise row.wrong("devices", f"{_WORDS} = {product}, not {devices}", f"{product}")
        found["dp" if "dp" in unsaid else unsaid[0]] = devices // product
    return found, tuple(Assumed(name, str(found[name])) for name in unsaid)


def _formats(row: Row, job: TrainingJob) -> tuple[Assumed, ...]:
    """Formats and kernels that the row does not say, as they are priced."""
    found = []
    if not row.text("dtype"):
        found.append(Assumed("dtype", str(job.workload.formats.dtype)))
    if not row.text("attention"):
        found.append(Assumed("attention", job.stack.kernels.attention))
    return tuple(found)
