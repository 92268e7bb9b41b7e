"""What several answers say of a TP degree and of the smallest mesh."""

from __future__ import annotations

from meshwise.layouts.tp_degrees import findings
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.smallest_mesh import SmallestFit
from meshwise.stacks.stack import Stack
from meshwise.units import format_gpus, format_memory

# findings of a TP degree that a first line names
NAMED_FINDINGS = {"kv_copies": "KV heads copied", "vocab_padding": "vocabulary padded"}


def shard_words(model: Model, stack: Stack, phase: str, tp: int) -> list[str]:
    """What a degree does to the model's shards."""
    found = {f.code for f in findings(model, tp, stack) if not f.refuses}
    if phase == "train":  # no cache that copies would fill
        found -= {"kv_copies"}
    return [said for code, said in NAMED_FINDINGS.items() if code in found]


def smallest_fit_words(fit: SmallestFit | None, devices: int, training: bool) -> str:
    """The smallest mesh that holds a workload; ``devices`` are the cluster's."""
    if fit is None:
        return "no mesh of TP and PP holds it"
    mesh = fit.layout
    said = [f"TP {mesh.tp}" + (f" × PP {mesh.pp}" if mesh.pp > 1 else "")]
    if training:
        said.append(f"microbatches of {mesh.micro_batch}")
    if mesh.recompute != "none":
        said.append(f"{mesh.recompute} recomputation")
    beyond = "" if fit.within_cluster else f", more than the {devices} here"
    each = f"({format_gpus(fit.devices)}{beyond}, {format_memory(fit.memory_bytes)} each)"
    return f"smallest mesh {', '.join(said)} {each}"
