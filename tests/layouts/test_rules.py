"""One question, one answer: what `estimate` accepts is what the planner enumerates."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise.axes import RECOMPUTE_CODE, SHARD_CODE
from meshwise.errors import IllegalLayout
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout
from meshwise.layouts.rules.case import expert_count
from meshwise.search.serving.space import serving_space
from meshwise.search.training.space import space

HGX = mw.cluster("hgx-h100", nodes=8)
MODELS = ("llama-3.1-8b", "llama-2-70b", "mixtral-8x7b", "deepseek-v2-lite", "gpt2")


def accepted(asked: dict[str, Any], model: mw.Model, work: Any, stack: Any) -> bool:
    try:
        check(Layout(**asked), model, HGX, work, stack)
    except IllegalLayout:
        return False
    return True


@pytest.mark.parametrize("seed", range(60))
def test_training_as_the_planner(seed: int) -> None:
    draw = random.Random(seed)
    model = mw.model(draw.choice(MODELS))
    name = draw.choice(("megatron-core", "nanotron", "torchtitan-fsdp", "deepspeed", "ideal"))
    stack = mw.stack(name, schedule=draw.choice(("1f1b", "1f1b", "gpipe", "zb-1p")))
    work = mw.Training(batch=draw.choice((6, 16, 24)), seq=draw.choice((96, 2048)))
    moe = expert_count(model) > 0
    asked = {
        "tp": draw.choice((1, 2, 4, 3)),
        "pp": draw.choice((1, 2, 3, 4)),
        "dp": draw.choice((1, 2, 3)),
        "cp": draw.choice((1, 1, 2)),
        "vp": draw.choice((1, 1, 2, 3, 5)),
        "ep": draw.choice((1, 2, 4)) if moe else 1,
        "etp": draw.choice((1, 2)) if moe else None,
        "micro_batch": draw.choice((1, 2)),
        "shard": draw.choice(tuple(SHARD_CODE)),
    }
    if asked["dp"] * asked["cp"] == 1:
        asked["shard"] = "none"  # sharding over one rank is no other program
    pins: dict[str, tuple[Any, ...]] = {k: (v,) for k, v in asked.items() if v is not None}
    pins["shard"] = (SHARD_CODE[asked["shard"]],)
    pins |= {"sequence_parallel": (False,), "recompute": (RECOMPUTE_CODE["full"],)}
    pins |= {"placement": (0,)}
    gpus = asked["tp"] * asked["pp"] * asked["dp"] * asked["cp"]
    listed = space(model, HGX, work, stack, gpus, pins).layouts
    assert accepted(asked, model, work, stack) == (listed > 0), (model.name, stack.name, asked)


@pytest.mark.parametrize("seed", range(60))
def test_serving_as_the_planner(seed: int) -> None:
    draw = random.Random(seed)
    model = mw.model(draw.choice(MODELS))
    stack = mw.stack(draw.choice(("vllm", "trtllm", "tgi-2023", "fastertransformer")))
    moe = expert_count(model) > 0
    asked = {
        "tp": draw.choice((1, 2, 4, 3, 16)),
        "pp": draw.choice((1, 2)),
        "dp": draw.choice((1, 2)),
        "ep": draw.choice((1, 2, 4, 8)) if moe else 1,
        "etp": draw.choice((1, 2, 4)) if moe else None,
        "dcp": draw.choice((1, 1, 2, 3)),
    }
    pins = {k: (v,) for k, v in asked.items() if v is not None}
    gpus = asked["tp"] * asked["pp"] * asked["dp"]
    layouts, _ = serving_space(model, stack, gpus, pins)
    decode = mw.Decode(batch=8, context=1024)
    assert accepted(asked, model, decode, stack) == (np.size(layouts.tp) > 0), (model.name, asked)


def test_what_cannot_be_is_refused() -> None:
    llama = mw.model("llama-2-70b")
    train = mw.Training(batch=16, seq=4096)
    core = mw.stack("megatron-core")
    assert not accepted({"tp": 8, "pp": 3, "vp": 7}, llama, train, core)
    assert accepted({"tp": 8, "pp": 4, "vp": 5}, llama, train, core)
    assert not accepted({"pp": 4, "vp": 2}, llama, train, mw.stack("nemo", schedule="gpipe"))
    assert not accepted({"pp": 4, "vp": 2}, llama, mw.Training(batch=6, seq=4096), core)
    assert not accepted({"pp": 2, "dp": 2, "shard": "zero3"}, llama, train, mw.stack("nemo"))
    assert not accepted({"tp": 2, "dcp": 2}, llama, train, core)


def test_decode_context_only_where_keys_are_shared() -> None:
    decode, vllm = mw.Decode(batch=8, context=4096), mw.stack("vllm")
    dense, latent = mw.model("llama-3.1-8b"), mw.model("deepseek-v2-lite")
    assert [d for d in (1, 2, 3, 8) if accepted({"tp": 4, "dcp": d}, dense, decode, vllm)] == [1]
    assert accepted({"tp": 16, "dcp": 2}, dense, decode, vllm)
    assert accepted({"tp": 8, "dcp": 8}, latent, decode, vllm)
    one = mw.Decode(batch=1, context=4096)
    assert not accepted({"tp": 8, "sequence_parallel": True}, dense, one, vllm)


def test_vocabulary_as_the_engine_pads_it() -> None:
    model = mw.model("gpt2")  # 50,257 entries
    padded = {
        name: int(legality.vocabulary_rows(model, mw.stack(name), 2)) * 2
        for name in ("vllm", "megatron-core", "torchtitan-fsdp")
    }
    assert padded == {"vllm": 50304, "megatron-core": 50432, "torchtitan-fsdp": 50258}


def test_a_limit_names_the_stack() -> None:
    work = mw.Training(batch=8, seq=2048)
    found = mw.scale("qwen2.5-72b", "dgx-2", work, stack="torchtitan-fsdp").to_dict()
    assert found["limit"]["reason"] == "kv_copies"
    assert found["smallest_fit"]["tp"] <= 8


QWEN = "qwen3-235b-a22b-fp8"  # experts of 1,536 in blocks of 128: eight shards cut a block


@functools.cache
def planned() -> list[dict[str, Any]]:
    load = mw.Serving(isl=512, osl=64, concurrency=32)
    found = mw.plan(QWEN, "hgx-h100", load, stack="sglang", gpus=8, top=100).to_dict()
    rows: list[dict[str, Any]] = found["layouts"]
    return rows


@pytest.mark.parametrize(("ep", "legal"), [(1, False), (2, True), (8, True)])
def test_blocks_of_experts_are_cut_by_their_own_degree(ep: int, legal: bool) -> None:
    """With expert parallelism an expert lies on fewer ranks than TP has (vLLM's way to TP8)."""
    work = mw.Decode(batch=32, context=1024)
    load = mw.Serving(isl=512, osl=64, concurrency=32)
    stack = "sglang"  # whose experts may be split and spread at once
    if legal:
        assert mw.estimate(QWEN, "hgx-h100", work, stack=stack, tp=8, ep=ep).to_dict()["fits"]
        assert mw.serve(QWEN, "hgx-h100", load, stack=stack, tp=8, ep=ep).to_dict()["fits"]
    else:
        for ask in (
            lambda: mw.estimate(QWEN, "hgx-h100", work, stack=stack, tp=8, ep=ep),
            lambda: mw.serve(QWEN, "hgx-h100", load, stack=stack, tp=8, ep=ep),
            lambda: mw.plan(QWEN, "hgx-h100", load, stack=stack, gpus=8, tp=8, ep=ep),
        ):
            with pytest.raises(mw.MeshwiseError, match=r"1\.5 blocks"):
                ask()
    found = planned()
    assert {r["etp"] for r in found} <= {1, 2, 4}
    assert not legal or (8, ep) in {(r["tp"], r["ep"]) for r in found}


def test_a_head_wider_than_a_block_may_end_inside_one() -> None:
    """MiMo-V2-Flash is served at TP 4: keys of 192 features a head, in blocks of 128 rounded up."""
    model, stack = mw.model("mimo-v2-flash"), mw.stack("vllm")
    assert legality.legal_tp(model, stack) == [1, 2, 4, 8, 16]
    said = [f for f in legality.findings(model, 4, stack) if f.code == "quantization_padding"]
    assert [f.text.split("; ")[-1] for f in said] == ["engines round its blocks up"]
    assert "key 768 / 4 = 192" in said[0].text
    load = mw.Serving(isl=1024, osl=256, concurrency=16)
    found = mw.serve(model, mw.cluster("hgx-h200"), load, tp=4).to_dict()
    assert found["fits"]


def test_a_block_of_several_heads_is_not_cut(tmp_path: Path) -> None:
    """Heads of 64 features, two to a block: a rank that has one of them cannot keep the block's scale."""
    for head_dim, refused in ((64, True), (192, False), (256, False)):
        config = {
            "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 2, "vocab_size": 32000,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": head_dim,
            "intermediate_size": 14336, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        }  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        model = mw.model(path)
        cut = [f for f in legality.refusals(model, 4, mw.stack("vllm")) if "key" in f.text]
        assert bool(cut) is refused, head_dim


@pytest.mark.parametrize(
    ("stack", "ep", "etp", "field", "legal"),
    [
        ("sglang", 3, None, "ep", [1, 2, 4]),
        ("vllm", 2, None, "ep", [1, 4]),
        ("vllm", 4, 2, "etp", [1]),
        ("sglang", 1, 2, "etp", [4]),
        ("trtllm", 2, 4, "etp", [2]),
    ],
)
def test_experts_lie_where_the_engine_puts_them(
    stack: str, ep: int, etp: int | None, field: str, legal: list[int]
) -> None:
    load = mw.Serving(isl=512, osl=64, concurrency=8)
    with pytest.raises(IllegalLayout) as error:
        mw.serve("qwen3-30b-a3b", "hgx-h100", load, stack=stack, tp=4, ep=ep, etp=etp)
    assert (error.value.field, error.value.legal) == (field, legal)
    for degree in legal:  # each of them is
        degrees = {"ep": ep, "etp": etp} | {field: degree}
        mw.serve("qwen3-30b-a3b", "hgx-h100", load, stack=stack, tp=4, **degrees)
