"""Memory of a serving engine: start-up logs of real servers, and pages by a second derivation."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.clusters.load import device as load_device
from meshwise.cost.memory.server import GIB, SMALL_DEVICE, ServerMemory, visible_bytes
from meshwise.layouts.layout import Layouts
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.shapes import Model
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack, replaced, taking
from meshwise.workloads.workload import Formats

LOGS = Path(__file__).parents[1] / "data/server_memory.csv"
H100 = mw.cluster("hgx-h100", nodes=1)


def memory(
    model: str | Model,
    stack: Stack | str = "vllm-0.19.0",
    *,
    tp: int = 1,
    cluster: mw.Cluster = H100,
    chunk: int | None = None,
    **formats: str | None,
) -> ServerMemory:
    spec = mw.model(model) if isinstance(model, str) else model
    software = load_stack(stack) if isinstance(stack, str) else stack
    layouts = Layouts(tp=np.int64(tp))
    return ServerMemory.of(spec, cluster, software, layouts, Formats(**formats), chunk)


# -- start-up logs --------------------------------------------------------------------------------


class Logged(NamedTuple):
    """A row, and what is predicted over what it says (tokens of the cache, where it says them)."""

    id: str
    part: str
    error: float


def _cluster(name: str) -> mw.Cluster:
    """Eight of the device, joined as such devices are."""
    device = load_device(name)
    plain = (device.memory_bytes < SMALL_DEVICE and "a100" not in name) or name == "gb10"
    kind = "pcie" if plain else "nvswitch"
    level = mw.Level.of(8, kind=kind, bandwidth="100 GB/s", latency="1 us")
    return mw.Cluster(name="c", title="c", device=device, levels=(level,))


def _predicted(row: dict[str, str]) -> Logged:
    changes: dict[str, object] = {}
    if row["utilisation"]:
        changes["memory_reserve"] = round(1.0 - float(row["utilisation"]), 9)
    if row["max_num_seqs"]:
        changes |= {
            "max_sequences": int(row["max_num_seqs"]),
            "max_sequences_small": int(row["max_num_seqs"]),
        }
    stack = replaced(load_stack(f"{row['engine']}-{row['version']}"), changes)
    layouts = Layouts(**{axis: np.int64(row[axis]) for axis in ("tp", "pp", "dp", "ep")})
    formats = Formats(weights=row["weights"] or None, kv_cache=row["kv_dtype"] or None)
    chunk = int(row["max_num_batched_tokens"]) if row["max_num_batched_tokens"] else None
    model = mw.model(row["model"])
    server = ServerMemory.of(model, _cluster(row["device"]), stack, layouts, formats, chunk)
    longest = int(row["max_model_len"] or model.max_positions or 8192)
    if row["kv_tokens"]:
        found, said = float(server.logged_tokens(longest)), float(row["kv_tokens"])
    else:
        found, said = float(server.tightest(longest).kv_cache_bytes) / GIB, float(row["kv_gib"])
    return Logged(row["id"], row["part"], found / said - 1.0)


@pytest.fixture(scope="module")
def logged() -> list[Logged]:
    with LOGS.open(encoding="utf-8", newline="") as file:
        return [_predicted(row) for row in csv.DictReader(file)]


def test_there_are_logs_of_many_engines_and_devices() -> None:
    with LOGS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 60
    assert {row["engine"] for row in rows} == {"vllm", "sglang", "trtllm"}
    assert len({row["device"] for row in rows}) >= 8
    assert all(row["source"].startswith("https://") for row in rows)


@pytest.mark.parametrize(
    ("part", "median", "p90"), [("develop", 0.02, 0.60), ("judge", 0.01, 0.06)]
)
def test_the_cache_is_as_large_as_the_logs_say(
    logged: list[Logged], part: str, median: float, p90: float
) -> None:
    errors = [abs(row.error) for row in logged if row.part == part]
    assert np.median(errors) <= median
    assert np.quantile(errors, 0.9) <= p90


# -- pages ----------------------------------------------------------------------------------------

PER_TOKEN = {  # bytes of all layers in 16 bit: 2 × layers × KV heads × head × 2, or latents
    "gpt2": 2 * 12 * 12 * 64 * 2,
    "llama-2-7b": 2 * 32 * 32 * 128 * 2,
    "llama-3.1-8b": 2 * 32 * 8 * 128 * 2,
    "llama-3.1-70b": 2 * 80 * 8 * 128 * 2,
    "llama-3.1-405b": 2 * 126 * 8 * 128 * 2,
    "mixtral-8x7b": 2 * 32 * 8 * 128 * 2,
    "qwen2.5-7b": 2 * 28 * 4 * 128 * 2,
    "qwen3-235b-a22b": 2 * 94 * 4 * 128 * 2,
    "deepseek-v3": 61 * (512 + 64) * 2,
    "kimi-k2": 61 * (512 + 64) * 2,
}


@pytest.mark.parametrize("model", PER_TOKEN)
def test_a_request_holds_whole_blocks(model: str) -> None:
    server = memory(model)
    for context in (1, 16, 17, 1000):
        blocks = math.ceil(context / 16)
        assert float(server.pages.request_bytes(context)[0]) == 16 * blocks * PER_TOKEN[model]
    cache = float(server.stages[0].kv_cache_bytes)
    if cache > 0:
        assert float(server.logged_tokens(4096)) == cache // (16 * PER_TOKEN[model]) * 16
        assert float(server.logged_blocks(4096)) == cache // (16 * PER_TOKEN[model])


def test_every_presets_cache_by_its_layers() -> None:
    for name in catalog.names("models"):
        model = mw.model(name)
        if model.quantization is not None:
            continue
        context = 32_768
        stack = replaced(load_stack("vllm"), {"unified_pages": False, "kv_block_tokens": 1})
        expected = 0.0
        for block, count in zip(model.blocks, model.kind_counts(), strict=True):
            a = block.attention
            if a is None or a.shared_kv:
                continue
            if a.compress is not None or a.indexer is not None or block.recurrent is not None:
                break
            width = a.kv_heads * (a.head_dim + (0 if a.one_cache else a.value_head_dim))
            if a.mla:
                assert a.kv_lora_rank is not None
                width = a.kv_lora_rank + a.rope_head_dim
            expected += count * 2 * width * min(context, a.window or context)
        else:
            if any(block.recurrent is not None for block in model.blocks):
                continue
            server = memory(model, stack, dtype="bf16")
            assert float(server.pages.request_bytes(context)[0]) == expected, name


def test_copied_heads_and_latents_do_not_shrink() -> None:
    wide = float(memory("llama-3.1-8b", tp=8).pages.request_bytes(16)[0])
    assert wide == 16 * 2 * 32 * 1 * 128 * 2
    one, eight = (float(memory("deepseek-v3", tp=tp).pages.request_bytes(16)[0]) for tp in (1, 8))
    assert one == eight


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("qwen3.5-27b", 1568), ("qwen3.5-9b", 1056)],
)
def test_attention_pages_of_hybrids_are_as_large_as_a_state(model: str, tokens: int) -> None:
    """The block that vLLM's log states: ``Setting attention block size to 1568 tokens``."""
    server = memory(model, kv_cache="fp8")
    pages = server.pages.pages(server._roles[0])
    assert pages is not None
    assert tokens in [float(t) for t in pages.tokens]


def test_groups_of_windows_and_whole_layers() -> None:
    """62 layers of gemma-3-27b, each sixth of which is whole: 10 of them and 52 with a window, in groups of
    ten."""
    server = memory("gemma-3-27b")
    pages = server.pages.pages(server._roles[0])
    assert pages is not None
    assert sorted(float(g) for g in pages.groups) == [1.0, 6.0]
    assert float(pages.page_bytes) == 10 * 16 * 2 * 16 * 128 * 2


def test_a_window_holds_an_iterations_tokens_too() -> None:
    """gpt-oss: vLLM's error of a cache that is too small says 4.54 GiB for 131,072 tokens."""
    need = float(memory("gpt-oss-120b", chunk=1024).pages.request_bytes(131_072)[0])
    assert need / GIB == pytest.approx(4.54, abs=0.005)


# -- budgets --------------------------------------------------------------------------------------


def test_vllm_takes_a_share_of_the_device() -> None:
    for share in (0.5, 0.9, 0.95):
        stack = taking(load_stack("vllm-0.19.0"), share)
        parts = memory("llama-3.1-8b", stack).stages[0]
        whole = float(parts.beside_bytes + parts.kv_cache_bytes)
        assert whole == pytest.approx(share * visible_bytes(H100.device, stack), rel=1e-9)


def test_newer_vllm_counts_graphs_and_takes_more() -> None:
    older, newer = load_stack("vllm-0.19.0"), load_stack("vllm-0.21.0")
    assert (older.memory_reserve, newer.memory_reserve) == (0.1, 0.08)
    assert float(memory("llama-3.1-8b", older).stages[0].graphs_bytes) == 0.0
    graphs = float(memory("llama-3.1-8b", newer).stages[0].graphs_bytes)
    assert 0.4 < graphs / GIB < 1.0


def test_sglang_computes_its_share() -> None:
    """server_args.py: (0.5 GiB + 1.5 MiB a token of a chunk + 2 MiB a sequence of the largest graph + 1 GiB
    by ranks of eight) of the device."""
    for tp in (1, 8):
        graph = 512 if tp >= 4 else 256
        reserved = (512 + 1.5 * 8192 + 2 * graph + tp * 128) * 2.0**20
        share = float(np.asarray(memory("llama-3.1-8b", "sglang", tp=tp).reserve))
        assert share == pytest.approx(reserved / H100.device.memory_bytes, abs=0.0006)
    asked = memory("llama-3.1-8b", taking(load_stack("sglang"), 0.8))
    assert float(asked.reserve) == pytest.approx(0.2)


def test_tensorrt_takes_a_share_of_what_is_free() -> None:
    stack = load_stack("trtllm")
    parts = memory("llama-3.1-8b", stack).stages[0]
    free = visible_bytes(H100.device, stack) - stack.cache.context_bytes - parts.beside_bytes
    assert float(parts.kv_cache_bytes) == pytest.approx(0.9 * float(free))


def test_ideal_rates_have_the_whole_device() -> None:
    ideal = load_stack("ideal")
    parts = memory("llama-3.1-8b", ideal).stages[0]
    whole = float(parts.beside_bytes + parts.kv_cache_bytes)
    assert whole == pytest.approx(H100.device.memory_bytes)


# -- monotonic ------------------------------------------------------------------------------------

SORTS = [
    "llama-3.1-8b",
    "gemma-3-27b",
    "gpt-oss-120b",
    "qwen3.5-27b",
    "deepseek-v2-lite",
    "mixtral-8x7b",
]


@pytest.mark.parametrize(
    "stack", ["vllm", "vllm-0.19.0", "vllm-0.6.0", "sglang", "trtllm", "lmdeploy"]
)
@pytest.mark.parametrize("model", SORTS)
def test_more_room_holds_more(model: str, stack: str) -> None:
    spec, software = mw.model(model), load_stack(stack)
    degrees = [tp for tp in legal_tp(spec, software) if tp <= 8 and (tp & (tp - 1)) == 0]
    held = [float(memory(spec, software, tp=tp).concurrency(4096)) for tp in degrees]
    assert held == sorted(held)
    top = degrees[-1]
    shares = [
        float(memory(spec, taking(software, share), tp=top).concurrency(4096))
        for share in (0.5, 0.7, 0.9)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    server = memory(spec, software, tp=top)
    contexts = [float(server.concurrency(c)) for c in (1, 100, 4096, 4097, 65_536, 131_072)]
    assert contexts == sorted(contexts, reverse=True)
    narrow = memory(spec, software, tp=top, kv_cache="fp8")
    assert float(narrow.concurrency(65_536)) >= contexts[4]
    chunks = [
        float(memory(spec, software, tp=top, chunk=c).stages[0].kv_cache_bytes)
        for c in (512, 8192, 65_536)
    ]
    assert chunks == sorted(chunks, reverse=True)


@pytest.mark.parametrize("model", SORTS)
def test_the_longest_request_fits_and_the_next_does_not(model: str) -> None:
    server = memory(model, tp=4)
    longest = server.longest()
    assert longest > 0
    assert float(server.concurrency(longest)) >= 1.0
    if longest < 1 << 20:
        assert float(server.concurrency(longest + 1)) < 1.0


def test_arrays_of_layouts_are_as_each_alone() -> None:
    spec, stack = mw.model("qwen3.5-27b"), load_stack("vllm-0.19.0")
    tps, pps = np.array([1, 2, 4, 1]), np.array([1, 1, 1, 4])
    many = ServerMemory.of(spec, H100, stack, Layouts(tp=tps, pp=pps), Formats())
    for i, (tp, pp) in enumerate(zip(tps, pps, strict=True)):
        one = ServerMemory.of(spec, H100, stack, Layouts(tp=tp, pp=pp), Formats())
        assert many.concurrency(4096)[i] == float(one.concurrency(4096))
        assert many.logged_tokens(4096)[i] == float(one.logged_tokens(4096))
