"""The one list of rules: one layout and many are judged alike, and what refuses says what mends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise.axes import AXES
from meshwise.errors import IllegalLayout
from meshwise.layouts.layout import Layout, arrays, columns
from meshwise.layouts.rules.case import Case, case_of
from meshwise.layouts.rules.rule import ALL_PHASES
from meshwise.layouts.rules.rulebook import RULES, broken, refuse, refuse_pins

HGX = mw.cluster("hgx-h100", nodes=8)
MODELS = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "qwen3-235b-a22b-fp8", "bloom-176b")
STACKS = ("megatron-core", "nanotron", "torchtitan-fsdp", "vllm", "tgi-2023", "ideal")
MANY = 50


def some_layout(draw: random.Random, phase: str) -> Layout:
    degrees: dict[str, Any] = {
        "tp": draw.choice((1, 2, 3, 4, 8, 16)),
        "pp": draw.choice((1, 1, 2, 3, 64)),
        "dp": draw.choice((1, 2, 3, 8)),
        "cp": draw.choice((1, 1, 2, 3)),
        "vp": draw.choice((1, 1, 2, 5)),
        "ep": draw.choice((1, 1, 2, 3, 8)),
        "etp": draw.choice((None, 1, 2)),
        "dcp": draw.choice((1, 1, 2)),
        "micro_batch": draw.choice((1, 2)),
        "shard": draw.choice(("none", "zero1", "zero3")),
        "sequence_parallel": draw.choice((False, True)),
    }
    if phase != "train":
        degrees["micro_batch"] = 1
    return Layout(recompute="none", **degrees)


def asked(draw: random.Random) -> tuple[mw.Model, mw.Stack, mw.Workload, int | None]:
    model, name = mw.model(draw.choice(MODELS)), draw.choice(STACKS)
    stack = mw.stack(name, schedule=draw.choice(("1f1b", "gpipe")))
    if draw.random() < 0.3:
        stack = mw.stack(stack, loss_chunks=4096, overlap_experts=True)
    train = mw.Training(batch=draw.choice((6, 16)), seq=draw.choice((96, 2048)))
    decode = mw.Decode(batch=draw.choice((1, 6)), context=512)
    work = draw.choice((train, mw.Prefill(batch=2, seq=96), decode))
    return model, stack, work, None if work is train else draw.choice((None, 2))


@pytest.mark.parametrize("seed", range(12))
def test_one_layout_is_judged_as_many_are(seed: int) -> None:
    draw = random.Random(seed)
    model, stack, work, requests = asked(draw)
    layouts = [some_layout(draw, work.phase) for _ in range(MANY)]
    many = case_of(model, stack, work, columns(layouts), requests, HGX)
    kept = {code: np.broadcast_to(rule.keeps(many), MANY) for code, rule in RULES.items()}
    for i, layout in enumerate(layouts):
        one = case_of(model, stack, work, arrays(layout, work), requests, HGX)
        assert broken(one) == [code for code in RULES if not kept[code][i]], layout


@pytest.mark.parametrize("seed", range(12))
def test_a_refusal_names_a_field_and_what_is_legal(seed: int) -> None:
    """Of every rule alone. Whoever takes the degree that is proposed, and the next, keeps the rule."""
    draw = random.Random(100 + seed)
    model, stack, work, requests = asked(draw)
    for _ in range(MANY):
        layout = some_layout(draw, work.phase)
        case = case_of(model, stack, work, arrays(layout, work), requests, HGX)
        for code in broken(case):
            mend(
                code,
                layout,
                lambda one: case_of(model, stack, work, arrays(one, work), requests, HGX),
            )


def mend(code: str, layout: Layout, judged: Callable[[Layout], Case]) -> None:
    """Follow what refusals propose until the rule holds."""
    for _ in range(len(AXES)):
        case = judged(layout)
        if not broken(case, [code]):
            return
        with pytest.raises(IllegalLayout) as error:
            refuse(layout, case, [code])
        said = error.value
        assert said.legal is not None
        assert str(said).startswith(str(said.field)), code
        if said.field not in AXES or not isinstance(said.nearest, int):
            return  # what is proposed is not another degree
        fields = {name: getattr(layout, name) for name in AXES} | {said.field: said.nearest}
        layout = Layout(**fields)
    raise AssertionError((code, layout))


def test_every_rule_says_who_imposes_it_and_when() -> None:
    assert {rule.by for rule in RULES.values()} == {"model", "stack", "workload", "cluster"}
    for code, rule in RULES.items():
        assert rule.phases and set(rule.phases) <= set(ALL_PHASES), code
        assert set(rule.pins) <= set(AXES), code


@pytest.mark.parametrize(
    ("axis", "value", "stack", "words"),
    [
        ("pp", 2, "deepspeed-2021", None),
        ("cp", 3, "megatron-core", "does not divide the sequence"),
        ("dp", 5, "megatron-core", "does not divide the global batch"),
        ("pp", 64, "megatron-core", "64 stages for 32 layers"),
        ("ep", 2, "megatron-core", "has no experts"),
        ("dcp", 2, "megatron-core", "no meaning in training"),
        ("cp", 2, "megatron-2021", "no context parallelism"),
        ("vp", 2, "torchtitan-fsdp", None),
    ],
)
def test_plan_and_estimate_refuse_alike(
    axis: str, value: int, stack: str, words: str | None
) -> None:
    """What no layout can have, a plan that holds it refuses in the words of one that has it."""
    work = mw.Training(batch=16, seq=2048)
    model, software = mw.model("llama-3.1-8b"), mw.stack(stack)
    wide: dict[str, Any] = {"pp": 2} if axis == "vp" else {}
    one = Layout(**{axis: value}, **wide)
    case = case_of(model, software, work, arrays(one, work), None, HGX)
    try:
        refuse_pins({axis: (value,)}, model, software, work)
    except IllegalLayout as error:
        assert words is None or words in str(error)
        assert broken(case)
    else:
        assert words is None
