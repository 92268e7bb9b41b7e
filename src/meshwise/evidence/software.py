"""From a row's columns for its software to a stack: the switches that the row states.

What a software's name and version stand for is in the stacks' files (:mod:`meshwise.stacks.versions`);
software that the catalog does not know is priced as the stack that the user names, or as the generic one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.evidence.prediction import Unsupported
from meshwise.evidence.rows import words
from meshwise.evidence.tables import Assumed, Row
from meshwise.stacks.load import commanded, load_stack, stack_in_table
from meshwise.stacks.schedules import SCHEDULE_NAMES as SCHEDULES
from meshwise.stacks.stack import Stack, kind_of, replaced
from meshwise.stacks.switches import words_of
from meshwise.stacks.words import MODULES
from meshwise.workloads.workload import OVERLAP_MODES

# by what a stack is asked to run
GENERIC = {"training": "generic", "inference": "generic-engine"}


class RowSoftware(NamedTuple):
    """A row's stack, and what had to be assumed of it; ``stood_in``: the row names it in no word that is
    known."""

    stack: Stack
    assumed: tuple[Assumed, ...] = ()
    stood_in: bool = False


def software_of(row: Row, name: str, phase: str, named: Stack | None = None) -> RowSoftware:
    """The stack that a row's ``name`` stands for, with the switches that the row states; one that is not
    known is priced as ``named``, else as the generic stack. What known software is not made for, it did
    not run: the row measured something else."""
    kind = kind_of(phase)
    known = stack_in_table(name) if name else None
    if known is not None and kind not in known.can.runs:
        raise Unsupported(f"software {name!r} is made for {' and '.join(known.can.runs)} alone")
    if known is not None:
        # tables say torchtitan of a run that is not compiled, commands of one that is
        differs = (
            () if commanded(name) in (None, known.name) else (Assumed("software", known.name),)
        )
        return RowSoftware(as_stated(known, row), differs)
    other = named if named is not None else load_stack(GENERIC[kind])
    return RowSoftware(as_stated(other, row), (Assumed("stack", other.name),), named is None)


def as_stated(stack: Stack, row: Row) -> Stack:
    """The stack with the switches that the row's columns state (``attention``, ``schedule``,
    ``overlap``, ``grad_overlap``, ``offload``, and those of :data:`~meshwise.stacks.stack.STATED`)."""
    changes: dict[str, Any] = {}
    attention = words.attention_of(row)
    if attention is not None:
        changes["attention"] = "flash" if attention.fused else "unfused"
        if attention.version is not None:
            changes["flash_version"] = attention.version
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
    if row.text("dispatcher"):
        changes["dispatcher"] = row.one_of("dispatcher", words_of("dispatcher"))
    for name in ("loss_chunks", "recompute_layers"):
        if row.text(name):
            changes[name] = row.count(name)
    if row.text("recompute_modules"):
        changes["recompute_modules"] = _modules(row)
    # the optimizer, and what is kept on the host; columns of one switch win over `offload`
    changes |= words.optimizer_of(row) | words.moments_of(row) | words.offload_of(row)
    if row.text("offload_layers"):
        changes["offload_layers"] = int(row.number("offload_layers", low=-1.0))
    for name in ("overlap_experts", "master_weights", "offload_optimizer", "cuda_graphs"):
        if row.text(name):
            changes[name] = row.flag(name)
    return replaced(stack, changes)


def _modules(row: Row) -> tuple[str, ...]:
    """Parts of a layer with commas or spaces between them."""
    names = row.text("recompute_modules").lower().replace(",", " ").replace("+", " ").split()
    for name in names:
        if name not in MODULES:
            raise row.wrong("recompute_modules", f"{name} is not known", MODULES)
    return tuple(dict.fromkeys(names))
