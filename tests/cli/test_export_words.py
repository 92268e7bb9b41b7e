"""What was priced is what is exported: every word of an answer's layout and price stands in the command,
in its NOT SAID lines, or is what the target does by itself; and reading the command gives it back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import answer, run
from tests.deep import deep

from meshwise import catalog
from meshwise.axes import PLACEMENTS
from meshwise.launch import Job, parse, target_names
from meshwise.launch.table import target

TRAINING = ("megatron-lm", "megatron-bridge", "torchtitan", "deepspeed", "accelerate")
SERVING = ("vllm", "sglang", "trtllm")


@st.composite
def asked(draw: st.DrawFn) -> list[str]:
    """Options of an estimate in training."""
    tp, pp, dp = (draw(st.sampled_from([1, 2, 4])) for _ in range(3))
    argv = ["--tp", str(tp), "--pp", str(pp), "--dp", str(dp)]
    argv += ["--batch", str(8 * dp), "--micro-batch", draw(st.sampled_from(["1", "2"]))]
    argv += ["--seq", "2048", "--shard", draw(st.sampled_from(["none", "zero1", "zero2", "zero3"]))]
    argv += ["--recompute", draw(st.sampled_from(["none", "selective", "full"]))]
    argv += ["--placement", draw(st.sampled_from(PLACEMENTS))]
    if tp > 1 and draw(st.booleans()):
        argv += ["--sequence-parallel"]
    argv += ["--overlap", draw(st.sampled_from(["none", "decomposed", "split"]))]
    if pp > 1:
        argv += ["--schedule", draw(st.sampled_from(["1f1b", "gpipe", "zb-1p"]))]
    if draw(st.booleans()):
        argv += ["--dtype", draw(st.sampled_from(["bf16", "fp16", "fp8"]))]
    if draw(st.booleans()):
        argv += ["--grad-dtype", draw(st.sampled_from(["bf16", "fp32"]))]
    if draw(st.booleans()):
        argv += ["--comm-dtype", "fp8"]
    argv += ["--attention", draw(st.sampled_from(["flash", "unfused"]))]
    return argv


def check(exported: dict, layout: dict, phase: str) -> None:
    """Each word of the layout is the job's, and each of the job's is read back or listed."""
    job = exported["job"]
    for word in ("tp", "pp", "dp", "cp", "ep", "recompute", "shard", "sequence_parallel"):
        if word in layout:
            assert job[word] == layout[word], word
    if layout.get("tp", 1) > 1 and phase == "train":
        assert job["overlap"] == layout["overlap"]
    unsaid = {u["field"] for u in exported["untranslated"]}
    gpus = exported["gpus"] if phase == "train" else None
    read = parse(exported["text"], gpus=gpus, experts=Job(**job).has_experts_grid)
    assert read.target == exported["target"]
    for field in job:
        mine, theirs = job[field], getattr(read.job, field)
        if field in ("gpus_per_node", "model", "etp") or mine is None or mine == theirs:
            continue
        assert field in unsaid, (field, mine, theirs)


@settings(max_examples=40, deadline=None)
@given(argv=asked(), name=st.sampled_from(TRAINING))
def test_estimates(argv: list[str], name: str, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("export") / "one.json"
    ran = run("estimate", "llama-2-7b", "--on", "hgx-h100", "--nodes", "8", *argv, "--json")
    if ran.code == 2:
        return
    path.write_text(ran.out)
    ran = run("export", name, "--from", str(path), "--gpus-per-node", "4", "--json")
    if ran.code == 2:
        assert "cannot run" in ran.out or "no whole number" in ran.out
        return
    record = json.loads(path.read_text())
    exported = ran.json()
    check(exported, record["layout"], "train")
    assert exported["job"]["micro_batch"] == record["layout"]["micro_batch"]
    assert exported["job"]["attention"] == record["stack"]["attention"]
    if "--comm-dtype" in argv:
        assert exported["job"]["comm_dtype"] == "fp8"
        assert "comm_dtype" in {u["field"] for u in exported["untranslated"]}


@pytest.mark.parametrize("name", TRAINING)
def test_precision_is_always_written(name: str) -> None:
    words = {
        "megatron-lm": "--bf16",
        "megatron-bridge": "mixed_precision=bf16_mixed",
        "torchtitan": 'mixed_precision_param="bfloat16"',
        "deepspeed": '"bf16": {\n    "enabled": true',
        "accelerate": "--mixed_precision bf16",
    }
    assert words[name] in run("export", name, "llama-3.1-8b", "--dp", "8").out


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_tp_overlap_needs_sequence_parallelism(tp: int, sequence_parallel: bool) -> None:
    argv = ["--tp", str(tp), "--dp", "4", "--overlap", "decomposed"]
    argv += ["--sequence-parallel"] if sequence_parallel else []
    text = run("export", "megatron-lm", "llama-3.1-8b", *argv).out
    possible = tp > 1 and sequence_parallel
    assert ("    --tp-comm-overlap" in text) == possible
    if tp > 1 and not possible:
        assert "NOT SAID by this command: overlap" in text


def test_plans_and_estimates_carry_the_same_words(tmp_path) -> None:
    base = ("llama-3.1-8b", "--on", "hgx-h100", "--nodes", "2", "--seq", "4096")
    plan = answer("plan", *base, "--global-batch", "64", "--top", "40")
    one = answer("estimate", *base, "--batch", "64", "--micro-batch", "1", "--tp", "2", "--dp", "8")
    row = plan["layouts"][0]
    assert set(one["layout"]) - set(row) <= {"dcp"}
    assert "formats" in plan
    for i, row in enumerate(plan["layouts"][::8]):
        argv = [
            "--placement",
            row["placement"],
            "--shard",
            row["shard"],
            "--overlap",
            row["overlap"],
        ]
        for name in ("tp", "pp", "vp", "dp", "cp"):
            argv += [f"--{name}", str(row[name])]
        argv += ["--micro-batch", str(row["micro_batch"]), "--recompute", row["recompute"]]
        argv += ["--sequence-parallel"] if row["sequence_parallel"] else []
        same = answer("estimate", *base, "--batch", "64", *argv)
        assert same["layout"] | {"dcp": 1} == {k: row.get(k, 1) for k in same["layout"]}, i


def test_a_placement_changes_the_price() -> None:
    base = ("estimate", "llama-2-13b", "--on", "hgx-h100", "--nodes", "2", "--batch", "16")
    base += ("--micro-batch", "1", "--seq", "4096", "--tp", "4", "--dp", "2", "--pp", "2")
    usual = answer(*base)
    other = answer(*base, "--placement", "tp-pp-dp-cp")
    assert usual["layout"]["placement"] == "tp-cp-dp-pp"
    assert other["layout"]["placement"] == "tp-pp-dp-cp"
    assert other["step_s"] != usual["step_s"]


def test_formats_of_a_serving_plan_are_exported(tmp_path) -> None:
    path = tmp_path / "plan.json"
    argv = (
        "plan",
        "llama-3.1-8b",
        "--on",
        "hgx-h100",
        "--nodes",
        "1",
        "--isl",
        "1024",
        "--osl",
        "128",
    )
    argv += ("--concurrency", "32", "--kv-dtype", "fp8", "--top", "1", "--json", "-o", str(path))
    assert run(*argv).code == 0
    for name in SERVING:
        exported = answer("export", name, "--from", str(path))
        assert exported["job"]["kv_dtype"] == "fp8"
        check(exported, json.loads(path.read_text())["layouts"][0], "serve")


@pytest.mark.parametrize("each", [4, deep(1)])
@pytest.mark.parametrize("name", target_names())
def test_every_preset_goes_out_and_comes_back(name: str, each: int) -> None:
    phase, first = target(name).phase, target_names().index(name) % each
    for preset in catalog.names("models")[first::each]:
        argv = ["--tp", "2", "--dp", "4"] if phase == "train" else ["--tp", "8"]
        ran = run("export", name, preset, *argv, "--json")
        assert ran.code in (0, 2), (preset, ran)
        if ran.code == 2:
            assert len(ran.out.splitlines()) == 1
            continue
        exported = ran.json()
        check(exported, {}, phase)
