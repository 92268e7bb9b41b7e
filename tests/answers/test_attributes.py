"""Every key of every answer's JSON is an attribute of the same name and value, and rows are its CSV."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.cli.running import run

import meshwise as mw
from meshwise import api, launch
from meshwise.answers.records.attributes import Record
from meshwise.answers.records.result import Answer
from meshwise.answers.run import RunResult
from meshwise.answers.text.tables import csv_text

DGX = ("--on", "dgx-a100")
TRAIN = (*DGX, "--batch", "32", "--seq", "1024")
WORK = mw.Training(batch=32, seq=1024)
LOAD = mw.Serving(isl=256, osl=32, concurrency=8)
DECODE = mw.Decode(batch=8, context=1024)
JOB = launch.Job(model="gpt2", phase="train", tp=2, dp=4, micro_batch=1, global_batch=8, seq=512)
VLLM = "vllm serve meta-llama/Llama-3.1-8B -tp 4"
MEGATRON = (
    "torchrun --nproc-per-node 8 --nnodes 1 pretrain_gpt.py --tensor-model-parallel-size 2 "
    "--micro-batch-size 1"
)
PLAN = ("plan", "llama-3.1-8b", *DGX, "--gpus", "4", "--tp", "2")
SERVED = ("--isl", "256", "--osl", "32", "--concurrency", "8")
RUN: dict[str, Any] = {
    "schema": 1,
    "model": "gpt2",
    "layers": 12,
    "phase": "train",
    "layout": {"tp": 2},
    "workload": {"batch": 8},
    "options": {},
    "measured": {"step_s": 1.0},
    "predicted": None,
    "predicted_on": "nothing",
    "comm_error": None,
    "links": [],
    "host": None,
    "operations": [{"name": "layer", "calls": 2.0}],
    "machine": {"torch": "2"},
}
# name → the answer from Python, and the command whose answer it is (where its words are as short)
ANSWERS: dict[str, tuple[Callable[[], Answer], tuple[str, ...]]] = {
    "scale": (
        lambda: mw.scale("llama-3.1-8b", "dgx-a100", WORK),
        ("scale", "llama-3.1-8b", *TRAIN),
    ),
    "scale, nothing fits": (
        lambda: mw.scale("llama-3.1-405b", "dgx-a100", WORK, tp=[1, 2]),
        ("scale", "llama-3.1-405b", *TRAIN, "--tp", "1,2"),
    ),
    "scale decode": (lambda: mw.scale("deepseek-v3", "hgx-h200", DECODE), ()),
    "estimate": (
        lambda: mw.estimate("mixtral-8x7b", "dgx-a100", WORK, tp=2, dp=4, ep=2, shard="zero1"),
        (
            "estimate",
            "mixtral-8x7b",
            *TRAIN,
            *["--tp", "2", "--dp", "4", "--ep", "2", "--shard", "zero1"],
        ),
    ),
    "sweep": (
        lambda: mw.sweep("gpt2", "dgx-a100", WORK, "batch=32,64", tp=[1, 2]),
        (
            "scale",
            "gpt2",
            *DGX,
            *["--seq", "1024", "--batch", "32", "--sweep", "batch=32,64", "--tp", "1,2"],
        ),
    ),
    "grow": (
        lambda: mw.grow("gpt2", "dgx-a100", WORK, [1, 2], tp=1),
        ("scale", "gpt2", *TRAIN, "--gpus", "1,2", "--tp", "1"),
    ),
    "plan": (
        lambda: mw.plan("llama-3.1-8b", "dgx-a100", WORK, gpus=4, tp=2, price_per_device_hour=2.0),
        (*PLAN, "--global-batch", "32", "--seq", "1024", "--price", "2"),
    ),
    "plan, nothing fits": (
        lambda: mw.plan("llama-3.1-405b", "dgx-a100", WORK, gpus=4, tp=2),
        (),
    ),
    "plan serving": (
        lambda: mw.plan("llama-3.1-8b", "dgx-a100", LOAD, gpus=4, tp=2),
        (*PLAN, *SERVED),
    ),
    "plan under limits": (
        lambda: mw.plan(
            *("llama-3.1-8b", "dgx-a100", LOAD),
            gpus=4,
            tp=2,
            ttft_s=1.0,
            tpot_s=0.05,
            disaggregated=True,
        ),
        (),
    ),
    "serve": (
        lambda: mw.serve("llama-3.1-8b", "dgx-a100", LOAD, tp=2),
        ("serve", "llama-3.1-8b", *DGX, *SERVED, "--tp", "2"),
    ),
    "serve within limits": (
        lambda: mw.serve(
            *("llama-3.1-8b", "dgx-a100", LOAD),
            tp=2,
            ttft_s={"p95": 0.001},
            tpot_s=0.05,
            price_per_device_hour=2.0,
        ),
        (),
    ),
    "serve in pools": (
        lambda: mw.serve("llama-3.1-8b", "dgx-a100", LOAD, prefill={"tp": 2}, ttft_s=1.0),
        (),
    ),
    "export": (lambda: mw.export(JOB, "megatron-lm"), ()),
    "import": (
        lambda: mw.read_command(VLLM, "dgx-a100", isl=256, osl=32, concurrency=8),
        ("import", VLLM, *DGX, *SERVED),
    ),
    "import training": (
        lambda: mw.read_command(
            MEGATRON, "dgx-a100", model="gpt2", gpus=8, global_batch=32, seq=1024
        ),
        (),
    ),
    "model": (lambda: mw.describe("deepseek-v3"), ("model", "deepseek-v3")),
    "model, dense": (lambda: mw.describe("gpt2"), ("model", "gpt2")),
    "collective": (
        lambda: mw.collective("all_reduce", "1MB", "dgx-a100", 8),
        ("collective", "all_reduce", "1MB", *DGX, "--ranks", "8"),
    ),
    "validate": (lambda: api.validate_published("collectives"), ()),
    "run": (lambda: RunResult(RUN), ()),
}


@functools.cache
def answer(name: str) -> Answer:
    return ANSWERS[name][0]()


def differences(path: str, json: Any, value: Any) -> list[str]:
    """Where an attribute is not what the JSON says."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if isinstance(json, dict):
        if path == ".fastest" and json == {"tp": None}:
            return [] if value is None else [path]
        found = []
        for key, item in json.items():
            by_name = key.isidentifier() and not hasattr(dict, key) and type(value) is not dict
            inner = getattr(value, key) if by_name else value[key]
            found += differences(f"{path}.{key}", item, inner)
        return found
    if isinstance(json, (list, tuple)):
        if len(json) != len(value):
            return [path]
        pairs = zip(json, value, strict=True)
        return [d for i, (a, b) in enumerate(pairs) for d in differences(f"{path}[{i}]", a, b)]
    return [] if json == value and type(json) is type(value) else [f"{path}: {json} {value}"]


@pytest.mark.parametrize("name", ANSWERS)
def test_every_key_is_an_attribute(name: str) -> None:
    found = answer(name)
    record = found.to_dict()
    for key, value in record.items():
        if key == "rows":  # a method of every answer; its rows are these
            continue
        assert not differences(f".{key}", value, getattr(found, key)), key
        assert key in dir(found)


@pytest.mark.parametrize("name", ANSWERS)
def test_the_class_names_the_keys_that_a_type_checker_knows(name: str) -> None:
    found = answer(name)
    assert [
        key for key in found.to_dict() if not hasattr(type(found), key) and key not in vars(found)
    ] == []


@pytest.mark.parametrize("name", ANSWERS)
def test_an_attribute_that_is_not_there_is_refused_with_the_nearest(name: str) -> None:
    found = answer(name)
    key = next(k for k in found.to_dict() if k not in ("schema", "rows"))
    with pytest.raises(AttributeError, match=f"has no '{key}_'; nearest: {key}"):
        getattr(found, f"{key}_")
    assert not hasattr(found, "_no_such_private_name")


@pytest.mark.parametrize("name", ANSWERS)
def test_rows_are_flat_and_have_the_units_of_the_json(name: str) -> None:
    found = answer(name)
    rows = found.rows()
    assert isinstance(rows, list)
    assert not [v for row in rows for v in row.values() if isinstance(v, dict)]
    if name.startswith("import"):  # the command's layout and the best stand beside the changes
        d = found.to_dict()
        assert [row["axis"] for row in rows] == [
            "yours", *(c["axis"] for c in d["changes"]), *(["best"] if d["best"] else [])
        ]  # fmt: skip
        assert rows[0]["memory_bytes"] == d["layout"]["memory_bytes"]
    elif found.ROWS:
        record = found.to_dict()[found.ROWS]
        assert len(rows) == len(record)
        plain = [k for k, v in record[0].items() if not isinstance(v, dict)] if record else []
        assert all(row[k] == item[k] for row, item in zip(rows, record, strict=True) for k in plain)
    else:
        assert len(rows) == 1


@pytest.mark.parametrize("name", [name for name in ANSWERS if ANSWERS[name][1]])
def test_rows_are_what_csv_writes(name: str) -> None:
    ran = run(*ANSWERS[name][1], "--csv")
    assert ran.code == 0, ran.err
    assert ran.out == csv_text(answer(name).rows()) + "\n"


@pytest.mark.parametrize("name", ANSWERS)
def test_a_data_frame_takes_the_rows(name: str) -> None:
    if importlib.util.find_spec("pandas") is None:
        pytest.skip("pandas is not installed")
    import pandas

    rows = answer(name).rows()
    frame = pandas.DataFrame(rows)
    assert len(frame) == len(rows)
    assert set(frame.columns) == {key for row in rows for key in row}


def test_parts_are_dictionaries_with_attributes() -> None:
    best = mw.plan("gpt2", "dgx-a100", WORK, gpus=2, tp=1).best
    assert best is not None
    assert best.tp == best["tp"] == 1
    assert json.loads(json.dumps(best))["step_s"] == best.step_s
    with pytest.raises(AttributeError, match="nearest: step_s"):
        best.step  # noqa: B018
    assert Record({"items": 1})["items"] == 1


def test_the_json_is_plain() -> None:
    """Attributes leave to_dict as it is: dictionaries of the language, no class of ours."""

    def types(value: Any) -> set[type]:
        inner = value.values() if isinstance(value, dict) else value
        nested = isinstance(value, (dict, list, tuple))
        return {type(value)}.union(*(types(v) for v in inner)) if nested else {type(value)}

    for name in ANSWERS:
        found = answer(name)
        found.schema  # noqa: B018
        assert Record not in types(found.to_dict()), name


def test_a_slip_of_the_fingers_finds_what_was_meant() -> None:
    found = answer("scale")
    for typed, meant in (("pionts", "points"), ("verdikt", "verdict"), ("limits", "limit")):
        with pytest.raises(AttributeError, match=f"nearest: {meant}$"):
            getattr(found, typed)


def test_a_percentile_that_is_limited_is_an_attribute_too() -> None:
    found = mw.serve("llama-3.1-8b", "dgx-a100", LOAD, tp=2, ttft_s={"p97": 1.0})
    assert found.ttft_p97_s == found.to_dict()["ttft_p97_s"]
    assert "ttft_p97_s" in dir(found)
    with pytest.raises(AttributeError, match="nearest"):
        found.ttft_p98_s  # noqa: B018
