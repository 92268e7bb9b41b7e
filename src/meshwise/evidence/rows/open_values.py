"""What a training row leaves open: the value that is priced, and how far the other legal ones would
move the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from meshwise.axes import RECOMPUTE_MODES
from meshwise.cost.estimate import Estimate
from meshwise.errors import MeshwiseError
from meshwise.evidence.hardware import other_networks
from meshwise.evidence.prediction import Span
from meshwise.evidence.rows.job import TrainingJob, TrainingRow
from meshwise.evidence.tables import Assumed

# A run that somebody measured did not take this many times its device's memory: more than the memory
# model's own error. What a row leaves open is then something else.
CLEARLY = 1.2
MOST_SEQUENCES = 64  # of a microbatch, among the values looked at


class Settled(NamedTuple):
    """The row's step as priced, what was assumed, and the spans of its quantities."""

    estimate: Estimate
    assumed: tuple[Assumed, ...]
    step: Span
    memory: Span


def settle(read: TrainingRow, ran: bool) -> Settled:
    """Price a row. Where sharding and recomputation are open, the least of them with which the run does
    not clearly overflow its device; ``ran`` false: it did overflow, and nothing follows from that."""
    job, assumed = read.job, list(read.assumed)
    found = job.price()
    # the least recomputation, and beyond it the least sharding, that fits
    if ran:
        for other in _lighter(read):
            if _holds(found):
                break
            job, found = other, _priced(other) or found
        if "micro_batch" in read.open:
            job, found = _usual_microbatch(job, found)
    for name in sorted(read.open - {"inter_node_gbytes_per_s"}):
        assumed.append(Assumed(name, _word(job, name)))
    by_hand = job.waived()
    if by_hand is not None:
        assumed.append(Assumed("layout", f"as it ran, though {by_hand}"))
    # how far each open value alone moves the answer: together they may move it by the product
    step, memory = Span(), Span()
    for name in sorted(read.open):
        others = [e for other in _others(job, name) if (e := _priced(other)) is not None]
        legal = [e for e in others if _holds(e)] if ran else others
        step = step.widened([float(e.step_s / found.step_s) for e in legal])
        memory = memory.widened([float(e.memory_bytes / found.memory_bytes) for e in legal])
    return Settled(found, tuple(assumed), step, memory)


def _holds(e: Estimate) -> bool:
    return bool(e.memory_bytes <= CLEARLY * e.cluster.device.memory_bytes)


def _priced(job: TrainingJob) -> Estimate | None:
    """The job's step; None where nothing runs it so."""
    try:
        return job.price()
    except MeshwiseError:
        return None


def _word(job: TrainingJob, name: str) -> str:
    value = job.workload.recompute if name == "recompute" else getattr(job.layout, name)
    return str(bool(value)).lower() if name == "sequence_parallel" else str(value)


def _lighter(read: TrainingRow) -> Iterator[TrainingJob]:
    """The row's job in less and less memory, by what it leaves open."""
    shards = ("none", "zero1", "zero3") if "shard" in read.open else (read.job.layout.shard,)
    modes = RECOMPUTE_MODES if "recompute" in read.open else (read.job.workload.recompute,)
    for shard in shards:
        for mode in modes:
            yield read.job.with_layout(shard=shard).recomputing(mode)


def _usual_microbatch(job: TrainingJob, one: Estimate) -> tuple[TrainingJob, Estimate]:
    """Without pipeline stages a replica's sequences go through in as few microbatches as fit: so did the
    published runs that say theirs. Stages want many microbatches: one sequence each."""
    if job.layout.pp == 1:
        for other in _others(job, "micro_batch"):
            found = _priced(other)
            if found is not None and bool(found.fits):
                return other, found
    return job, one


def _others(job: TrainingJob, name: str) -> Iterator[TrainingJob]:
    """The job with the extremes of the legal values of what is open, in place of the value taken."""
    layout, work = job.layout, job.workload
    if name == "micro_batch":
        sequences = max(work.batch // layout.dp, 1)
        sizes = [m for m in range(1, MOST_SEQUENCES + 1) if sequences % m == 0]
        yield from (job.with_layout(micro_batch=m) for m in reversed(sizes))
    elif name == "recompute":
        yield from (job.recomputing(mode) for mode in RECOMPUTE_MODES)
    elif name == "vp":
        stages = job.model.layers // layout.pp
        depths = [v for v in range(1, stages + 1) if stages % v == 0]
        yield from (job.with_layout(vp=v) for v in {depths[0], depths[-1]})
    elif name == "shard":
        yield from (job.with_layout(shard=shard) for shard in ("none", "zero1", "zero3"))
    elif name == "sequence_parallel":
        yield job.with_layout(sequence_parallel=not layout.sequence_parallel)
    elif name == "inter_node_gbytes_per_s":
        yield from (job._replace(cluster=other) for other in other_networks(job.cluster))
