"""What an answer says of encoders of images and sounds: what is counted of them, and what is not."""

from __future__ import annotations

from meshwise.models.parameters import tower_parameters
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.units import format_count
from meshwise.workloads.workload import Decode, Training, Workload


def _encoders(model: Model) -> str:
    """The encoders by name, each once."""
    return " and ".join(dict.fromkeys(t.name for t in model.towers if t.kind != "projector"))


def tower_remarks(model: Model, workload: Workload, stack: Stack) -> list[str]:
    """That encoders are in the memory and not in the time; which are in neither; and how many of a
    prompt's tokens are images'."""
    found = []
    if model.towers:
        weights = format_count(tower_parameters(model))
        if isinstance(workload, Training):
            how = "frozen: 16-bit weights on every rank of the first stage"
        elif stack.memory.shards_towers:
            how = "in memory on every stage, divided over TP"
        else:
            how = "in memory, whole on every rank"
        found.append(
            f"encoders of images or sounds ({_encoders(model)}, {weights} weights with their projectors): "
            f"{how}; their compute is not priced"
        )
    files = _in_files(model)
    if files and model.towers and files != tower_parameters(model):
        found.append(
            f"the checkpoint's files hold {files:,} weights of encoders, its config.json leads to "
            f"{tower_parameters(model):,}: memory is that of the files"
        )
    if model.towers_not_counted:
        where = (
            "in memory as the files have them, not in time"
            if files
            else "neither in memory nor in time"
        )
        found.append(f"not counted, {where}: {', '.join(model.towers_not_counted)}")
    tokens = 0 if isinstance(workload, Training) else workload.image_tokens
    if tokens:
        held = workload.context if isinstance(workload, Decode) else workload.seq
        found.append(f"{tokens:,} of a sequence's {held:,} tokens are images'")
    return found


def _in_files(model: Model) -> int | None:
    """Weights of encoders in the checkpoint's files; None where nothing says it."""
    parts = () if model.checkpoint is None else model.checkpoint.apart
    return next((part.parameters for part in parts if part.what == "towers"), None)


def tower_degree_remarks(model: Model, stack: Stack, tp: int) -> list[str]:
    """Encoders whose heads a TP degree does not divide: engines refuse to divide them, and keep them
    whole where they are told to."""
    if not stack.memory.shards_towers:
        return []
    return [
        f"TP {tp} does not divide the {t.heads} heads of {t.name}: priced whole on every rank, which an "
        "engine does where it is told to (vLLM: --mm-encoder-tp-mode data)"
        for t in dict.fromkeys(model.towers)
        if t.kind != "projector" and t.heads % tp
    ]
