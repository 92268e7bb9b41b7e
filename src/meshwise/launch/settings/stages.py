"""Layers of pipeline stages: how Megatron-LM is told of a split that is not even, and how it is read."""

from __future__ import annotations

import itertools
import re

from meshwise.errors import IllegalLayout
from meshwise.launch.settings.settings import Settings, contradiction
from meshwise.layouts.stages import stage_bounds

SPLITS = ("embedding_split", "loss_split", "first_layers", "last_layers", "stage_layout")
_ITEM = re.compile(r"([Etm L])(?:\*(\d+))?")


def _sizes(layers: int, pp: int) -> list[int]:
    """Layers of each stage as they are priced."""
    bounds = stage_bounds(layers, pp)
    return [b - a for a, b in itertools.pairwise(bounds)]


def split_settings(layers: int | None, pp: int) -> Settings:
    """The flags by which Megatron-LM cuts ``layers`` as they are priced; none where it is even."""
    if layers is None or pp == 1 or layers % pp == 0:
        return {}
    if (layers + 1) % pp == 0:
        return {"loss_split": True}
    if (layers + 2) % pp == 0:
        return {"embedding_split": True, "loss_split": True}
    sizes = _sizes(layers, pp)
    if len(set(sizes[1:-1])) <= 1:
        return {"first_layers": sizes[0], "last_layers": sizes[-1]}
    words = [f"t*{n}" for n in sizes]
    return {"stage_layout": "|".join(["E" + words[0], *words[1:-1], words[-1] + "L"])}


def stages_said(s: Settings, pp: int) -> list[int] | None:
    """Layers of each stage by a command's flags; None where it does not say how many there are."""
    if s.get("stage_layout"):
        return _of_layout(str(s["stage_layout"]), pp)
    layers = s.get("layers")
    if layers is None:
        return None
    first, last = s.get("first_layers"), s.get("last_layers")
    before, after = int(bool(s.get("embedding_split"))), int(bool(s.get("loss_split")))
    middle = pp - sum(n is not None for n in (first, last))
    rest = layers + before + after - (first or 0) - (last or 0)
    if rest < 0 or (rest % middle if middle else rest):
        raise contradiction(
            "--pipeline-model-parallel-size",
            pp,
            f"does not share {layers} layers evenly",
            "a divisor, --account-for-loss-in-pipeline-split, or --decoder-last-pipeline-num-layers",
        )
    each = rest // middle if middle else 0
    sizes = [each] * pp
    sizes[0], sizes[-1] = first or each - before, last or sizes[-1] - after
    if first is None and pp == 1:
        sizes = [layers]
    return sizes


def check_split(sizes: dict[str, int], layers: int, pp: int, vp: int) -> None:
    """Raise where Megatron-LM does not cut the model's layers over stages as the command says."""
    if sizes.get("stage_layout") or pp == 1:
        return
    s: Settings = {**sizes, "layers": layers}
    stages_said(s, pp)
    whole = layers + sizes.get("embedding_split", 0) + sizes.get("loss_split", 0)
    free = sizes.get("first_layers") or sizes.get("last_layers")
    if not free and whole % (pp * vp):
        raise contradiction(
            "--num-virtual-stages-per-pipeline-rank",
            vp,
            f"does not share {whole} layers evenly over {pp} stages",
            [v for v in range(1, whole // pp + 1) if whole % (pp * v) == 0],
        )


def _of_layout(text: str, pp: int) -> list[int] | None:
    """Layers by stage of ``Et*3|(tt|)*29,m|L`` where it has a stage for each of the ranks."""
    grouped = re.sub(
        r"\(([^()]*)\)\*(\d{1,4})", lambda m: m.group(1) * int(m.group(2)), text.replace(",", "")
    )
    parts = grouped.split("|")
    if len(parts) != pp:
        return None
    sizes = []
    for part in parts:
        items = _ITEM.findall(part)
        sizes.append(sum(int(n or 1) for kind, n in items if kind == "t"))
    return sizes


def remark(s: Settings, pp: int) -> list[str]:
    """A sentence where the stages of a command are not those that are priced."""
    if pp == 1 or not any(s.get(name) for name in (*SPLITS, "layers")):
        return []
    try:
        sizes = stages_said(s, pp)
    except IllegalLayout:  # looked at with the model: :func:`check`
        return []
    named = any(s.get(name) for name in SPLITS[2:])  # the others are what is priced
    if sizes is None:
        return ["the split of the layers over stages is priced as even as it goes"] if named else []
    layers = sum(sizes)
    if sizes == _sizes(layers, pp):
        return []
    shown = " ".join(map(str, sizes)) if pp <= 16 else f"{min(sizes)} to {max(sizes)}"
    return [f"stages of {shown} layers are priced as even as {layers} layers go"]
