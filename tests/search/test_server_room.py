"""What a server holds, and the refusal of what it does not."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.errors import DoesNotFit, IllegalLayout, InputError
from meshwise.layouts.layout import Layout
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.formats import model_as_run
from meshwise.search.serving.runs.room import (
    PlacedServer,
    nearest_layout,
    require_room,
    room_for,
    server_room,
    smallest_share,
)
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import replaced, taking

NODE = mw.cluster("hgx-h100", nodes=1)


def server(
    model: str, *, tp: int = 1, isl: int = 2048, osl: int = 256, **said: object
) -> PlacedServer:
    stack = load_stack(str(said.pop("stack", "vllm")))
    load = mw.Serving(isl=isl, osl=osl, concurrency=1, **said)
    return PlacedServer(mw.model(model), NODE, stack, Layout(tp=tp), load)


def test_a_server_says_what_its_log_does() -> None:
    room = server_room(server("llama-3.1-70b", tp=4))
    assert room.max_model_len == 131_072
    assert room.kv_cache_tokens == 16 * room.kv_cache_blocks
    assert room.max_model_concurrency == pytest.approx(room.kv_cache_tokens / 131_072, rel=1e-3)
    parts = (
        room.weights_bytes
        + room.activations_bytes
        + room.runtime_bytes
        + room.graphs_bytes
        + room.kv_cache_bytes
        + room.reserve_bytes
    )
    assert parts == pytest.approx(NODE.device.memory_bytes)
    # asked for: what the engine is told
    assert server_room(server("llama-3.1-70b", tp=4), 8192).max_model_len == 8192


@pytest.mark.parametrize("stack", ["vllm", "vllm-0.21.0", "sglang", "trtllm"])
def test_the_longest_that_fits_is_named(stack: str) -> None:
    few = server("qwen2.5-14b", isl=4_000_000, osl=100, stack=stack)
    few = few._replace(model=msgspec.structs.replace(few.model, max_positions=None))
    with pytest.raises(DoesNotFit) as caught:
        require_room(few)
    error = caught.value
    assert (error.field, error.value, error.exit_code) == ("isl", 4_000_000, 3)
    assert "\n" not in str(error)
    require_room(few._replace(load=msgspec.structs.replace(few.load, isl=error.nearest)))
    with pytest.raises(DoesNotFit):
        require_room(few._replace(load=msgspec.structs.replace(few.load, isl=error.nearest + 1)))


def test_what_would_hold_it_is_named() -> None:
    alone = server("llama-3.1-70b")
    with pytest.raises(DoesNotFit, match="leave no room for a KV cache") as caught:
        require_room(alone)
    assert (caught.value.field, caught.value.nearest) == ("tp", 4)
    require_room(server("llama-3.1-70b", tp=4))
    with pytest.raises(DoesNotFit):
        require_room(server("llama-3.1-70b", tp=1))
    # the next step of the share holds it, the one before does not
    long = server("qwen3-32b", isl=40_000)
    share = smallest_share(long, 40_256)
    assert share is not None
    require_room(long._replace(stack=taking(long.stack, share)))
    with pytest.raises(DoesNotFit, match=f"{share:.0%} of the memory holds it"):
        require_room(long._replace(stack=taking(long.stack, share - 0.01)))


def test_an_engine_is_not_told_of_more_than_fits() -> None:
    some = server("qwen3-32b", isl=1000, osl=10)
    require_room(some)
    with pytest.raises(DoesNotFit) as caught:
        require_room(some, 40_256)
    assert (caught.value.field, caught.value.value) == ("max_model_len", 40_256)
    require_room(some, caught.value.nearest)


def test_the_public_function_refuses() -> None:
    load = mw.Serving(isl=2048, osl=256, concurrency=8)
    with pytest.raises(DoesNotFit):
        mw.serve("llama-3.1-405b", "hgx-h100", load, tp=8)
    with pytest.raises(InputError, match="max_model_len"):
        mw.serve("llama-3.1-8b", "hgx-h100", load, tp=1, max_model_len=0)
    told = mw.serve("llama-3.1-8b", "hgx-h100", load, tp=1, max_model_len=4096)
    assert told.max_model_len == 4096
    assert told.max_model_concurrency == pytest.approx(told.kv_cache_tokens / 4096, rel=1e-3)


def test_every_preset_fits_or_is_refused_in_one_line() -> None:
    """A prompt of any length: refused with a length, or a degree, that is held."""
    looked_at = 0
    for name in catalog.names("models"):
        try:
            one = server(name, isl=60_000, osl=64)
            spec = model_as_run(one.model, one.load.decode())
            legal = legal_tp(spec, one.stack)
        except mw.MeshwiseError:
            continue  # a format that nothing runs
        looked_at += 1
        top = max(tp for tp in legal if tp <= 8)
        for tp in {1, top}:
            asked = one._replace(layout=Layout(tp=tp))
            try:
                require_room(asked)
            except DoesNotFit as error:
                assert "\n" not in str(error), name
                assert error.to_dict()["error"]["field"] in ("isl", "tp"), name
                if error.field == "isl":
                    load = msgspec.structs.replace(asked.load, isl=error.nearest)
                    require_room(asked._replace(load=load))
                elif error.nearest is not None:
                    require_room(asked._replace(layout=Layout(tp=error.nearest)))
            else:
                own = one.model.max_positions or 60_064  # an engine takes no longer one
                assert server_room(asked).longest_request >= min(60_064, own), name
    assert looked_at >= 0.9 * len(catalog.names("models"))


def test_a_common_prefix_is_in_the_cache_once() -> None:
    memory = server("llama-3.1-8b").memory()
    each = 2 * 32 * 8 * 128 * 2  # bytes of a token
    cache = float(memory.stages[0].kv_cache_bytes)
    assert float(memory.concurrency(4096)) == pytest.approx(cache / (4096 * each))
    shared = (cache - 3072 * each) / (1024 * each)
    assert float(memory.concurrency(4096, 3072)) == pytest.approx(shared)
    used, limit = memory.used_bytes(4096, 10, 3072)
    alone, same = memory.used_bytes(4096, 0)
    assert float(limit) == float(same)
    assert float(used - alone) == pytest.approx((3072 + 10 * 1024) * each)


def test_the_pool_of_prompts_is_refused_by_its_own_degree() -> None:
    load = mw.Serving(isl=2048, osl=256, concurrency=8)
    with pytest.raises(DoesNotFit) as caught:
        mw.serve("llama-3.1-70b", "hgx-h100", load, tp=4, prefill={"tp": 1})
    assert (caught.value.field, caught.value.nearest) == ("prefill_tp", 4)
    assert "in the prefill pool" in str(caught.value)
    with pytest.raises(DoesNotFit) as caught:
        mw.serve("llama-3.1-70b", "hgx-h100", load, tp=1, prefill={"tp": 4})
    assert caught.value.field == "tp"


def test_what_is_advised_is_no_longer_than_the_model_was_made_for() -> None:
    long = server("llama-3.1-8b", isl=4_000_000)
    own = long.model.max_positions
    assert own == 131_072
    with pytest.raises(InputError, match="131,072 positions") as caught:
        room_for(long, long.layout, None, None)
    assert caught.value.nearest == own - long.load.osl
    assert "holds it" not in str(caught.value.legal)
    assert server_room(server("llama-3.1-8b")).longest_request == own
    # what the engine is told of goes first
    assert server_room(server("llama-3.1-8b"), 8192).longest_request == 8192


def test_fewer_requests_at_once_are_a_way_to_make_room() -> None:
    """Graphs and sampling are for as many as may run."""
    alone = server("gpt-oss-120b")
    with pytest.raises(DoesNotFit) as caught:
        require_room(alone)
    said = re.search(r"`max_num_seqs=(\d+)` holds it", str(caught.value.legal))
    assert said is not None
    for many, fits in ((int(said[1]), True), (2 * int(said[1]), False)):
        told = replaced(alone.stack, {"max_sequences": many, "max_sequences_small": many})
        if fits:
            require_room(alone._replace(stack=told))
        else:
            with pytest.raises(DoesNotFit):
                require_room(alone._replace(stack=told))


def test_a_trace_and_python_keep_to_the_length_that_the_engine_is_told_of(tmp_path: Path) -> None:
    load = mw.Serving(isl=1024, osl=64, concurrency=2)
    with pytest.raises(InputError, match="max_model_len=100: ") as caught:
        mw.serve("llama-3.1-8b", NODE, load, max_model_len=100)
    assert (caught.value.field, caught.value.nearest) == ("max_model_len", 1088)
    trace = tmp_path / "t.csv"
    trace.write_text("arrival,input,output\n0,200,10\n1,140000,100\n")
    with pytest.raises(InputError, match="140,100 tokens"):
        mw.serve("llama-3.1-8b", NODE, load, arrivals=trace, max_model_len=100_000)


def test_images_beside_a_trace_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival,input,output\n0,2000,10\n1,1400,100\n")
    load = mw.Serving(isl=1024, osl=64, concurrency=2, image_tokens=576)
    with pytest.raises(InputError) as caught:
        mw.serve("gemma-3-4b", NODE, load, arrivals=trace)
    assert caught.value.field == "image_tokens"


def test_a_prompt_that_is_not_cut_fits_an_iteration() -> None:
    load = mw.Serving(isl=4096, osl=64, concurrency=2, chunk=2048)
    for stack in ("trtllm", replaced(load_stack("vllm"), {"whole_prompts": True})):
        with pytest.raises(InputError) as caught:
            mw.serve("llama-3.1-8b", NODE, load, stack=stack)
        assert (caught.value.field, caught.value.nearest) == ("chunk", 4096)
        with pytest.raises(InputError, match="chunk=2048"):
            mw.plan("llama-3.1-8b", NODE, load, stack=stack, gpus=1)


@pytest.mark.parametrize("stack", ["llama.cpp", "tgi-2023", "fastertransformer"])
def test_an_engine_without_graphs_has_none_to_turn_off(stack: str) -> None:
    load = mw.Serving(isl=512, osl=64, concurrency=2)
    eager = replaced(load_stack(stack), {"eager": True})
    with pytest.raises(InputError, match="no CUDA graphs"):
        mw.serve("llama-3.1-8b", NODE, load, stack=eager)
    with pytest.raises(InputError, match="no CUDA graphs"):
        mw.plan("llama-3.1-8b", NODE, load, stack=eager, gpus=1)


def test_the_fullest_rank_of_experts_needs_ranks_of_experts() -> None:
    hot = mw.Serving(isl=512, osl=64, concurrency=2, expert_imbalance=2.0)
    with pytest.raises(IllegalLayout, match="ep=1") as caught:
        mw.serve("qwen3-30b-a3b", NODE, hot, tp=2)
    assert caught.value.field == "expert_imbalance"
    mw.serve("qwen3-30b-a3b", NODE, hot, tp=2, ep=2)
    all_of_them = msgspec.structs.replace(hot, expert_imbalance=2.5)
    with pytest.raises(IllegalLayout, match="2 ranks"):
        mw.serve("qwen3-30b-a3b", NODE, all_of_them, tp=2, ep=2)
    with pytest.raises(InputError, match="ep=1") as caught:
        mw.plan("qwen3-30b-a3b", NODE, hot, gpus=2, ep=1)
    assert caught.value.field == "expert_imbalance"
    # of pools it is enough that one of them has such ranks
    apart = {"prefill": {"tp": 1}}
    mw.serve("qwen3-30b-a3b", NODE, hot, tp=2, ep=2, **apart)
    with pytest.raises(InputError, match="ep=1"):
        mw.serve("qwen3-30b-a3b", NODE, hot, tp=2, **apart)


@pytest.mark.parametrize(
    ("stack", "where", "said"),
    [
        *(("trtllm", "mi300x-8x", True), ("trtllm", "hgx-h100", False)),
        *(("lmdeploy", "mi300x-8x", True), ("vllm", "mi300x-8x", False)),
    ],
)
def test_a_stack_on_devices_that_it_does_not_run_on_is_remarked(
    stack: str, where: str, said: bool
) -> None:
    load = mw.Serving(isl=512, osl=64, concurrency=2)
    found = mw.serve("llama-3.1-8b", where, load, stack=stack).remarks
    assert any("which runs on CUDA devices" in r for r in found) == said


@pytest.mark.parametrize(
    ("model", "tp", "nodes", "words"),
    [
        # experts whose width is cut are padded: the same GPUs hold them whole
        ("deepseek-v4-pro", 8, 1, "TP 8 EP 8 on the same 8 GPUs holds it"),
        ("mimo-v2-flash", 1, 1, "TP 4 holds it"),
        ("kimi-k3", 8, 2, "TP 8 PP 2 EP 8 on 16 GPUs holds it"),
        ("llama-3.1-70b", 1, 1, "TP 2 holds it"),
    ],
)
def test_a_layout_that_holds_the_model_goes_before_narrower_weights(
    model: str, tp: int, nodes: int, words: str
) -> None:
    where = mw.cluster("hgx-h200", nodes=nodes)
    if model == "llama-3.1-70b":
        where = NODE
    load = mw.Serving(isl=1024, osl=256, concurrency=16)
    asked = PlacedServer(mw.model(model), where, load_stack("vllm"), Layout(tp=tp), load)
    with pytest.raises(DoesNotFit) as caught:
        require_room(asked)
    assert str(caught.value.legal).split("; ")[0] == words
    other = nearest_layout(asked, 1280)
    assert other is not None
    require_room(asked._replace(layout=other))


def test_what_no_layout_of_the_cluster_holds_is_said_so() -> None:
    load = mw.Serving(isl=1024, osl=256, concurrency=16)
    asked = PlacedServer(mw.model("kimi-k3"), NODE, load_stack("vllm"), Layout(tp=8), load)
    assert nearest_layout(asked, 1280) is None
    with pytest.raises(DoesNotFit, match="more than 8 GPUs"):
        require_room(asked)
