"""From a row's columns for its software to a stack: the switches that the row states.

What a software's name and version stand for is in the stacks' files (:mod:`meshwise.stacks.versions`).
"""

from __future__ import annotations

from typing import Any

from meshwise.evidence.tables import Row
from meshwise.stacks.load import load_stack
from meshwise.stacks.schedules import SCHEDULE_NAMES as SCHEDULES
from meshwise.stacks.stack import Stack, replaced
from meshwise.stacks.switches import words_of
from meshwise.stacks.words import MODULES
from meshwise.workloads.workload import OVERLAP_MODES

ATTENTION_KERNELS = ("flash", "flash1", "flash2", "flash3", "flash4", "unfused")

# What a training run without a known name is priced as, by the way that it shards: these have the
# most published runs of their kind.
_USUAL = {"zero3": "torchtitan-eager"}
_USUAL_ELSE = "megatron-core"


def usual_training_stack(shard: str) -> Stack:
    """The stack that stands in for software that the catalog does not know."""
    return replaced(load_stack(_USUAL.get(shard, _USUAL_ELSE)), {"loss_chunks": 1})


def as_stated(stack: Stack, row: Row) -> Stack:
    """The stack with the switches that the row's columns state (``attention``, ``schedule``,
    ``overlap``, ``grad_overlap``, and those of :data:`~meshwise.stacks.stack.STATED`)."""
    changes: dict[str, Any] = {}
    attention = row.one_of("attention", ATTENTION_KERNELS)
    if attention:
        changes["attention"] = "unfused" if attention == "unfused" else "flash"
        if attention[-1].isdigit():
            changes["flash_version"] = int(attention[-1])
    # a variant of the software may be a schedule: megatron-2024-zb-2p
    variant = next((k for k in SCHEDULES if row.text("stack").lower().endswith(f"-{k}")), "")
    schedule = row.one_of("schedule", SCHEDULES) or variant
    if schedule:
        changes["schedule"] = schedule
    overlap = row.one_of("overlap", OVERLAP_MODES)
    if overlap:
        changes["overlap"] = overlap
    if overlap == "none":
        changes["overlap_input_gradient"] = False
    if row.text("grad_overlap"):
        # overlapped reductions and ZeRO's gathers come together; alone the first is the usual one
        changes["overlap_grad_reduce"] = row.flag("grad_overlap")
        if not row.flag("grad_overlap"):
            changes["overlap_param_gather"] = False
    for name in ("dispatcher", "moments_dtype"):
        if row.text(name):
            changes[name] = row.one_of(name, words_of(name))
    if row.text("loss_chunks"):
        changes["loss_chunks"] = row.count("loss_chunks")
    if row.text("recompute_modules"):
        changes["recompute_modules"] = _modules(row)
    if row.text("overlap_experts"):
        changes["overlap_experts"] = row.flag("overlap_experts")
    return replaced(stack, changes)


def _modules(row: Row) -> tuple[str, ...]:
    """Parts of a layer with commas or spaces between them."""
    names = row.text("recompute_modules").lower().replace(",", " ").split()
    for name in names:
        if name not in MODULES:
            raise row.wrong("recompute_modules", f"{name} is not known", MODULES)
    return tuple(dict.fromkeys(names))
