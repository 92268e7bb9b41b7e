"""What a launch command starts: a model under a layout, in words that no target has of its own."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise.axes import AXES, PLACEMENTS
from meshwise.errors import IllegalLayout, InputError
from meshwise.layouts.layout import Layout
from meshwise.stacks import schedules
from meshwise.stacks.words import DISPATCHERS, MOMENTS, OPTIMIZERS
from meshwise.strict_tables import count, fraction, one_of
from meshwise.workloads.workload import OVERLAP_MODES

JOB_PHASES = ("train", "serve")
DEGREES = tuple(
    name
    for name, axis in AXES.items()
    if axis.kind in ("degree", "count") and name != "micro_batch"
)
PLACEMENT = PLACEMENTS[0]
_COUNTS = (
    *("micro_batch", "global_batch", "seq", "max_len", "concurrency", "chunk", "draft_tokens"),
    *("loss_chunks", "gpus_per_node", "recompute_layers"),
)
_WORDS = (*(("dispatcher", DISPATCHERS), ("moments_dtype", MOMENTS), ("optimizer", OPTIMIZERS)),)


class Job(Layout, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layout with what its command has to say beside it; nothing of the layout is left open but the
    microbatch.

    ``dp`` replicas of attention; with ep · etp > tp the experts span them (attention data
    parallelism). ``etp`` is explicit: tp for a model without experts. Training has ``micro_batch``,
    ``global_batch`` and ``seq``; serving ``max_len`` (prompt and answer) and ``concurrency`` over all
    replicas, ``chunk`` tokens of an iteration, ``draft_tokens`` of speculation,
    ``memory_share`` of a GPU's memory that the engine may take, ``eager`` (no CUDA graphs) and
    ``chunked_prefill`` (False: prompts are not cut). ``dtype`` is that of the products, ``weight_dtype`` and ``kv_dtype`` where they are narrower, ``comm_dtype`` what TP
    sends, ``grad_dtype`` the gradients', ``quantization`` the method as an engine calls it, and
    the switches of :data:`meshwise.stacks.stack.STATED` what a training stack does otherwise; None: as the checkpoint, or as the software does by itself.
    """

    model: str
    phase: str
    etp: int = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    overlap: str = "none"  # "decomposed" is the layout's, "split" the stack's
    schedule: str = schedules.USUAL
    global_batch: int | None = None
    seq: int | None = None
    max_len: int | None = None
    concurrency: int | None = None
    dtype: str | None = None
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    comm_dtype: str | None = None
    grad_dtype: str | None = None
    loss_chunks: int | None = None
    dispatcher: str | None = None
    overlap_experts: bool | None = None
    moments_dtype: str | None = None
    quantization: str | None = None
    recompute_modules: tuple[str, ...] | None = None
    optimizer: str | None = None
    master_weights: bool | None = None
    offload_optimizer: bool | None = None
    offload_layers: int | None = None
    recompute_layers: int | None = None
    cuda_graphs: bool | None = None
    attention: str = "flash"
    chunk: int | None = None
    draft_tokens: int | None = None
    draft_cost: str | None = None
    memory_share: float | None = None
    eager: bool | None = None
    chunked_prefill: bool | None = None
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.phase, "phase", JOB_PHASES)
        for name in _COUNTS:
            if getattr(self, name) is not None:
                count(getattr(self, name), name)
        if self.memory_share is not None:
            fraction(self.memory_share, "memory_share", low=0.05, high=1.0)
        one_of(self.schedule, "schedule", schedules.SCHEDULE_NAMES)
        one_of(self.overlap, "overlap", OVERLAP_MODES)
        msgspec.structs.force_setattr(self, "decomposed", self.overlap == "decomposed")
        for name, legal in _WORDS:
            if getattr(self, name) is not None:
                one_of(getattr(self, name), name, legal)
        inner = self.tp * self.cp * self.dp
        if inner % (self.ep * self.etp):
            raise IllegalLayout(
                f"ep {self.ep} · etp {self.etp} does not divide tp {self.tp} · cp {self.cp} · dp "
                f"{self.dp} = {inner}",
                field="ep",
                value=self.ep,
                legal=[d for d in range(1, inner + 1) if inner % (d * self.etp) == 0][:20],
            )
        if self.global_batch is not None and self.global_batch % (
            self.dp * (self.micro_batch or 1)
        ):
            raise IllegalLayout(
                f"a global batch of {self.global_batch} is no multiple of dp {self.dp} · microbatch "
                f"{self.micro_batch or 1}",
                field="global_batch",
                value=self.global_batch,
                legal=f"multiples of {self.dp * (self.micro_batch or 1)}",
            )

    def to_dict(self) -> dict[str, Any]:
        """The job in JSON: what it runs, its layout, what goes with it."""
        said = msgspec.to_builtins(self)
        return {name: said[name] for name in JOB_FIELDS}

    @property
    def gpus(self) -> int:
        return self.devices

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def words(self) -> str:
        """Its degrees above 1, as one reads them."""
        names = [n for n in DEGREES if n != "etp" or self.has_experts_grid]
        shown = " ".join(f"{n}={getattr(self, n)}" for n in names if getattr(self, n) > 1)
        return shown or "tp=1"

    @property
    def spans_replicas(self) -> bool:
        """Whether experts lie over several attention replicas."""
        return self.ep * self.etp > self.tp

    @property
    def has_experts_grid(self) -> bool:
        return self.ep > 1 or self.etp != self.tp


# what it is made of, in the order of its JSON: what it runs, its layout, what goes with it
JOB_FIELDS = (
    *("model", "phase"),
    *(name for name, axis in AXES.items() if not axis.key),
    *(n for n in Job.__struct_fields__ if n not in AXES and n not in ("model", "phase")),
)


def _canonical(placement: str, degrees: dict[str, Any]) -> str:
    """The first placement that puts the ranks alike: the place of an axis of one rank is no matter."""
    if placement not in PLACEMENTS:
        return placement

    def order(name: str) -> list[str]:
        return [axis for axis in name.split("-") if int(degrees.get(axis, 1)) > 1]

    return next(p for p in (*SAID_PLACEMENTS, *PLACEMENTS) if order(p) == order(placement))


SAID_PLACEMENTS = (PLACEMENT, "tp-cp-pp-dp")  # what targets have words for


def job_of(model: str, phase: str, layout: dict[str, Any], **more: Any) -> Job:
    """A job from a layout's record (as ``plan --json`` or ``estimate --json`` print it)."""
    known = {k: layout[k] for k in Job.__struct_fields__ if k in layout and layout[k] is not None}
    if phase == "serve":
        known.pop("micro_batch", None)
    elif "placement" in known:
        known["placement"] = _canonical(str(known["placement"]), known)
    for name in DEGREES:
        if name in known:
            known[name] = count(known[name], name)
    if "etp" not in known:
        known["etp"] = max(1, known.get("tp", 1) // known.get("ep", 1))
    fields: dict[str, Any] = {"model": model, "phase": phase} | known
    fields |= {k: v for k, v in more.items() if v is not None}
    try:
        return Job(**fields)
    except TypeError as error:
        raise InputError(f"layout: {error}", field="layout", value=layout) from None
