"""The same question has one answer: ``estimate``, ``scale``, ``plan``, ``serve``, and a command written by
``export`` and read by ``import``, over formats that names and options state."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from contract import Refused, ask
from running import run
from tests.deep import deep

import meshwise as mw

MODELS = (
    *("llama-3.1-8b", "gpt2-xl", "falcon-7b", "gemma-2-9b", "mixtral-8x7b", "qwen3-30b-a3b"),
    *("deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b", "command-r", "phi-3-medium"),
    *("Qwen/Qwen3-32B-FP8", "Qwen/Qwen2.5-14B-Instruct-AWQ", "Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4"),
    *(
        "nvidia/Llama-3.3-70B-Instruct-FP4",
        "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8",
        "kimi-k2-thinking",
    ),
    *("RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8", "meta-llama/Llama-3.1-405B-Instruct-FP8"),
)
FORMATS = (
    (),
    ("--dtype", "bf16"),
    ("--dtype", "fp16"),
    ("--dtype", "fp8"),
    ("--weight-dtype", "bf16"),
    ("--weight-dtype", "int4"),
    ("--kv-dtype", "fp8"),
    ("--dtype", "bf16", "--weight-dtype", "fp8"),
)
CLUSTERS = ("hgx-h100", "hgx-b200", "dgx-a100", "l40s-8x")
# that take longest, each of a kind and with formats that another one has too
LONG = ("gpt-oss-20b", "Qwen/Qwen3-32B-FP8", "deepseek-v2-lite", "command-r", "phi-3-medium")
LONG += ("RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8",)
CASES = 96 if os.environ.get("MESHWISE_MATRIX") else len(MODELS)


def questions() -> list[tuple[str, str, int, tuple[str, ...]]]:
    """Every model, every set of formats; clusters and degrees by the dice, always the same."""
    dice = random.Random(20)
    return [
        (MODELS[i % len(MODELS)], dice.choice(CLUSTERS), dice.choice((1, 2, 4, 8)),
         FORMATS[(i + i // len(MODELS)) % len(FORMATS)])
        for i in range(CASES)
    ]  # fmt: skip


def test_few_models_have_all_formats() -> None:
    assert {formats for model, *_, formats in questions() if model not in LONG} == set(FORMATS)


class Said(dict[str, Any]):
    """The figures of an answer; none where it was refused, and why."""

    refusal: str = ""


def said(argv: list[str], pick: Any) -> Said:
    try:
        found = pick(ask(*argv))
    except Refused as refused:
        found = None
        why = str(refused.error["message"])
    result = Said(found or {})
    if found is None:
        result.refusal = why
    return result


def point(tp: int) -> Any:
    return lambda record: next(p for p in record["points"] if p["tp"] == tp)


def same(one: Said, other: Said, names: tuple[str, ...], what: str) -> None:
    assert bool(one.refusal) == bool(other.refusal), (what, one.refusal, other.refusal)
    for name in () if one.refusal else names:
        a, b = one[name], other[name]
        equal = math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) else a == b
        assert equal, f"{what}: {name}: {a} and {b}"


def served(record: dict[str, Any]) -> dict[str, Any]:
    return record["layouts"][0] if record["layouts"] else {"fits": False}


@pytest.mark.parametrize(
    ("model", "cluster", "tp", "formats"),
    [deep(*one) if one[0] in LONG else one for one in questions()],
)
def test_one_answer(
    model: str, cluster: str, tp: int, formats: tuple[str, ...], tmp_path: Path
) -> None:
    base = [model, "--on", cluster, "--nodes", "1"]
    token = ["--phase", "decode", "--batch", "4", "--context", "1023"]
    load = ["--isl", "1022", "--osl", "2", "--concurrency", "4"]
    degree = ["--tp", str(tp)]
    one = said(["estimate", *base, *degree, *token, *formats], lambda r: r)
    curve = said(["scale", *base, *degree, *token, *formats], point(tp))
    same(one, curve, ("step_s", "memory_bytes", "fits"), "estimate, scale")
    own = said(["serve", *base, *degree, *load, *formats], lambda r: r)
    if own.refusal and not one.refusal:  # no room beside the weights
        assert not one["fits"] and "beside" in own.refusal, own.refusal
        return
    assert bool(own.refusal) == bool(one.refusal), (own.refusal, one.refusal)
    pins = ["--gpus", str(tp), *degree, "--pp", "1", "--dp", "1", "--ep", "1", "--dcp", "1"]
    pins += ["--etp", str(tp)] if any(b.moe for b in mw.model(model).blocks) else []
    if own.refusal:
        # the rule is the same one, in the same words
        assert own.refusal.split(";")[0] == one.refusal.split(";")[0]
        with pytest.raises(Refused):
            ask("plan", *base, *pins, *load, *formats, feasible=True)
        return
    assert own["remarks"] == one["remarks"] or set(own["remarks"]) >= set(one["remarks"][:1])
    row = said(["plan", *base, *pins, *load, *formats], served)
    if own["fits"]:
        same(own, row, ("memory_bytes", "fits", "max_concurrency"), "plan")
        assert row["simulated"]
        same(own, row, ("tpot_s", "tpot_high_s", "ttft_s", "ttft_p95_s", "tokens_per_s"), "plan")
    else:
        assert not row["fits"]
    written(own, model, base, load, tmp_path)


def written(own: Said, model: str, base: list[str], load: list[str], folder: Path) -> None:
    """A command either says all that was priced, and is priced alike, or lists what it does not."""
    file = folder / "served.json"
    file.write_text(json.dumps(own))
    record = ask("export", "vllm", "--from", str(file))
    if any(u["field"].endswith("dtype") for u in record["untranslated"]):
        return
    back = ask("import", record["text"], *base[1:], *load)
    # the command states how many run at once, for whom less memory is kept free
    same(own, Said(back["layout"]), ("fits", "tpot_s", "ttft_s"), f"import {model}")


def test_the_questions_meet_every_model_and_format() -> None:
    asked = questions()
    assert {q[0] for q in asked} == set(MODELS) and {q[3] for q in asked} == set(FORMATS)
    assert run("model", MODELS[0]).code == 0
