"""What a plan ranks for an engine, that engine has flags for."""

from __future__ import annotations

import pytest
from tests.deep import deep_but

import meshwise as mw
from meshwise import launch
from meshwise.axes import SERVES

MODELS = ("llama-3.1-8b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite")


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("model", deep_but(("llama-3.1-8b", "deepseek-v2-lite"), MODELS))
def test_every_layout_of_a_plan_is_a_command(model: str, engine: str) -> None:
    load = mw.Serving(isl=1024, osl=256, concurrency=64)
    rows = mw.plan(model, "hgx-h100", load, stack=engine, gpus=8, top=200).layouts
    assert rows
    for row in rows:
        job = launch.job_of(model, "serve", row, max_len=1280)
        said = mw.export(job, engine).to_dict()
        unsaid = {u["field"] for u in said["untranslated"]} & set(SERVES)
        assert not unsaid, {axis: row[axis] for axis in SERVES}
