"""Results of serving benchmarks and start-up logs of engines as rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshwise.evidence.readers.reading import read_file
from meshwise.evidence.readers.records import FileFound

VLLM: dict[str, Any] = {
    "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "num_prompts": 320,
    "request_rate": "inf",
    "max_concurrency": 32,
    "duration": 60.5,
    "completed": 320,
    "total_input_tokens": 327680,
    "total_output_tokens": 40960,
    "output_throughput": 677.0,
    "mean_ttft_ms": 210.5,
    "median_ttft_ms": 200.1,
    "mean_tpot_ms": 12.5,
    "mean_itl_ms": 12.5,
}
SGLANG: dict[str, Any] = {
    **{key: value for key, value in VLLM.items() if key not in ("model_id", "num_prompts")},
    "backend": "sglang", "total_output_tokens_retokenized": 40950, "accept_length": None,
    "server_info": {"model_path": "Qwen/Qwen3-8B", "tp_size": 2, "dp_size": 1, "pp_size": 1, "version": "0.5.3"},
}  # fmt: skip
TRTLLM: dict[str, Any] = {
    "engine": {
        "model": "meta-llama/Llama-3.1-8B", "version": "1.2.0", "dtype": "bfloat16",
        "kv_cache_dtype": "FP8", "quantization": "FP8",
    },
    "machine": {"name": "NVIDIA H200"},
    "world_info": {"tp_size": 2, "pp_size": 1, "ep_size": None, "world_size": 2},
    "request_info": {"num_requests": 100, "avg_num_concurrent_requests": 31.7, "avg_input_length": 1024.0, "avg_output_length": 128.0},
    "performance": {"system_output_throughput_tok_s": 1280.0},
    "streaming_metrics": {"avg_ttft_ms": 95.0, "avg_tpot_ms": 8.5},
}  # fmt: skip
PERF: dict[str, Any] = {
    "request_latency": {"unit": "ms", "avg": 2500.0},
    "time_to_first_token": {"unit": "ms", "avg": 120.0},
    "inter_token_latency": {"unit": "us", "avg": 14000.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 640.0},
    "input_sequence_length": {"unit": "tokens", "avg": 1024.2},
    "output_sequence_length": {"unit": "tokens", "avg": 200.3},
    "input_config": {
        "model": ["meta-llama/Llama-3.1-8B-Instruct"],
        "backend": "vllm",
        "perf_analyzer": {"stimulus": {"concurrency": 8}},
    },
}
LLAMA: dict[str, Any] = {
    "gpu_info": "NVIDIA GeForce RTX 4090, NVIDIA GeForce RTX 4090",
    "n_gpu_layers": 99,
    "model_type": "llama 7B Q4_K - Medium",
    "split_mode": "row",
    "n_prompt": 0,
    "n_gen": 128,
    "n_depth": 4096,
    "avg_ts": 160.0,
}
TABLE = """\
ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes
| model                          |       size |     params | backend    | ngl |          test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | ------------: | -------------------: |
| llama 7B F16                   |  12.55 GiB |     6.74 B | CUDA       |  99 |         pp512 |     5120.00 ± 10.00 |
| llama 7B F16                   |  12.55 GiB |     6.74 B | CUDA       |  99 |  tg128 @ d512 |      50.00 ± 0.50 |

build: abc (1234)
"""


def every(tmp_path: Path, text: str) -> list[FileFound]:
    path = tmp_path / "result"
    path.write_text(text, encoding="utf-8")
    return read_file(str(path))


def found(tmp_path: Path, *contents: dict[str, Any]) -> FileFound:
    (only,) = every(tmp_path, "\n".join(map(json.dumps, contents)))
    return only


def test_vllms_client_says_model_load_and_means(tmp_path: Path) -> None:
    (row,) = found(tmp_path, VLLM).rows
    assert row.values == {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "engine": "vllm",
        "isl": 1024,
        "osl": 128,
        "concurrency": 32,
        "output_tokens_per_s": 677.0,
        "requests": 320,
        "ttft_s": pytest.approx(0.2105),
        "tpot_s": pytest.approx(0.0125),
    }


def test_a_rate_of_requests_is_no_concurrency(tmp_path: Path) -> None:
    (row,) = found(tmp_path, {**VLLM, "request_rate": 4.0, "max_concurrency": None}).rows
    assert row.values["request_rate_per_s"] == 4.0
    assert "concurrency" not in row.values
    (row,) = found(tmp_path, {**VLLM, "max_concurrency": None}).rows
    assert row.values["all_at_once"] is True


def test_sglangs_client_says_what_its_server_ran(tmp_path: Path) -> None:
    attention = {**SGLANG["server_info"], "tp_size": 8, "dp_size": 4, "enable_dp_attention": True}
    read = found(tmp_path, SGLANG, {**SGLANG, "server_info": attention})
    assert read.form == "SGLang bench_serving"
    told = [
        [r.values.get(k) for k in ("line", "tp", "dp", "engine_version", "model")]
        for r in read.rows
    ]
    assert told == [
        [None, 2, 1, "0.5.3", "Qwen/Qwen3-8B"],
        [None, 2, 4, "0.5.3", "Qwen/Qwen3-8B"],  # replicas of the attention are within tp_size
    ]
    assert [r.line for r in read.rows] == [1, 2]


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"completed": 300}, "every request completed expected, found 300 of 320"),
        ({"completed": 0}, "completed requests expected"),
        ({"mean_tpot_ms": 0.0}, "mean_tpot_ms: a finite number above 0"),
        ({"mean_ttft_ms": float("nan")}, "mean_ttft_ms: a finite number above 0"),
        ({"output_throughput": -1.0}, "output_throughput: a finite number above 0"),
        ({"total_output_tokens": 0}, "total_output_tokens: a finite number above 0"),
        ({"accept_length": 2.9}, "one token per pass expected"),
        ({"ramp_up_strategy": "linear"}, "a steady load expected"),
        ({"request_rate": "trace"}, "request_rate: a number above 0"),
        ({"server_info": {"prefill": [], "decode": [{}]}}, "one engine expected"),
    ],
)
def test_a_result_that_measures_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    read = found(tmp_path, VLLM, {**VLLM, **change})
    assert len(read.rows) == 1
    assert [(r.line, expected in r.reason) for r in read.refused] == [(2, True)]


def test_a_line_of_json_that_is_cut_is_refused_alone(tmp_path: Path) -> None:
    whole = json.dumps(VLLM)
    (read,) = every(tmp_path, f"{whole}\n{whole[:80]}\n{whole}\n")
    assert [r.line for r in read.rows] == [1, 3]
    assert [r.line for r in read.refused] == [2]


def test_a_report_of_trtllm_says_device_degrees_and_formats(tmp_path: Path) -> None:
    (row,) = found(tmp_path, TRTLLM).rows
    assert row.values == {
        "model": "meta-llama/Llama-3.1-8B",
        "device": "h200",
        "devices": 2,
        "tp": 2,
        "pp": 1,
        "engine": "trtllm",
        "engine_version": "1.2.0",
        "dtype": "fp8",
        "kv_dtype": "fp8",
        "isl": 1024,
        "osl": 128,
        "requests": 100,
        "output_tokens_per_s": 1280.0,
        "ttft_s": pytest.approx(0.095),
        "tpot_s": pytest.approx(0.0085),
        "mean_in_flight": 31.7,
    }


def test_an_export_of_genai_perf_says_times_in_its_units(tmp_path: Path) -> None:
    (row,) = found(tmp_path, PERF).rows
    assert row.values == {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "engine": "vllm",
        "concurrency": 8,
        "isl": 1024,
        "osl": 200,
        "output_tokens_per_s": 640.0,
        "ttft_s": pytest.approx(0.12),
        "tpot_s": pytest.approx(0.014),
    }
    odd = {**PERF, "inter_token_latency": {"unit": "fortnights", "avg": 1.0}}
    assert "a unit of time" in found(tmp_path, odd).refused[0].reason


def test_llama_bench_is_generations_and_prompts(tmp_path: Path) -> None:
    prompt = {**LLAMA, "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 5120.0}
    text = json.dumps([LLAMA, prompt], indent=1)
    kinds = {f.kind: f for f in every(tmp_path, text)}
    (generated,), (prefill,) = kinds["serving"].rows, kinds["prefill"].rows
    assert generated.values == {
        "device": "rtx-4090",
        "devices": 2,
        "tp": 2,
        "pp": 1,
        "model": "llama 7B",
        "dtype_said": "Q4_K - Medium",
        "engine": "llama.cpp",
        "isl": 4096,
        "osl": 128,
        "concurrency": 1,
        "tpot_s": pytest.approx(1 / 160),
    }
    assert prefill.values["step_s"] == pytest.approx(0.1)
    assert (generated.line, prefill.line) == (2, 12)


def test_llama_benchs_table_says_what_its_json_does(tmp_path: Path) -> None:
    kinds = {f.kind: f for f in every(tmp_path, TABLE)}
    assert kinds["serving"].rows[0].values == {
        "device": "rtx-4090",
        "devices": 1,
        "model": "llama 7B",
        "dtype": "fp16",
        "engine": "llama.cpp",
        "isl": 512,
        "osl": 128,
        "concurrency": 1,
        "tpot_s": 0.02,
    }
    assert kinds["prefill"].rows[0].values["step_s"] == pytest.approx(0.1)
    cut = TABLE[: TABLE.index(" |      50.00")]
    refused = [r for f in every(tmp_path, cut) for r in f.refused]
    assert [r.line for r in refused] == [6]


START = """\
INFO [core.py:65] Initializing a V1 LLM engine (v0.9.1) with config: model='meta-llama/Llama-3.1-8B-Instruct', tokenizer='x', max_seq_len=131072, tensor_parallel_size=2, pipeline_parallel_size=1
INFO [gpu_model_runner.py:1624] Model loading took 7.5085 GiB and 3.2 seconds
INFO [gpu_worker.py:227] Available KV cache memory: 62.50 GiB
INFO [gpu_worker.py:227] Available KV cache memory: 62.25 GiB
INFO [kv_cache_utils.py:716] GPU KV cache size: 1,021,504 tokens
INFO [kv_cache_utils.py:1148] GPU KV cache size: 1,021,488 tokens, Maximum concurrency for 131,072 tokens per request: 7.79x
"""
SGLANG_START = """\
server_args=ServerArgs(model_path='Qwen/Qwen3-8B', tp_size=1, dp_size=1, pp_size=1, mem_fraction_static=0.88)
[2025-06-01 12:00:00] Load weight end. type=Qwen3ForCausalLM, dtype=torch.bfloat16, avail mem=63.50 GB, mem usage=15.30 GB.
[2025-06-01 12:00:01] KV Cache is allocated. #tokens: 400000, K size: 27.47 GB, V size: 27.47 GB
[2025-06-01 12:00:09] max_total_num_tokens=400000, chunked_prefill_size=8192, max_running_requests=4096, context_len=40960
"""
TRTLLM_START = "[TRT-LLM] [I] [MemUsageChange] Allocated 45.50 GiB for max tokens in paged KV cache (372736).\n"


def test_a_start_says_its_engine_and_the_least_cache_of_its_ranks(tmp_path: Path) -> None:
    (read,) = every(tmp_path, START)
    assert read.rows[0].values == {
        "engine": "vllm",
        "engine_version": "0.9.1",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "context": 131072,
        "tp": 2,
        "pp": 1,
        "kv_cache_tokens": 1021488,
        "kv_cache_bytes": 62.25 * 2**30,
        "weights_bytes": 7.5085 * 2**30,
    }
    (read,) = every(tmp_path, SGLANG_START)
    assert read.rows[0].values == {
        "engine": "sglang",
        "model": "Qwen/Qwen3-8B",
        "tp": 1,
        "dp": 1,
        "pp": 1,
        "weights_bytes": 15.3 * 2**30,
        "kv_cache_tokens": 400000,
        "kv_cache_bytes": pytest.approx(54.94 * 2**30),
    }
    latent = SGLANG_START.replace("K size: 27.47 GB, V size: 27.47 GB", "KV size: 54.94 GB")
    assert every(tmp_path, latent)[0].rows[0].values == read.rows[0].values
    (read,) = every(tmp_path, TRTLLM_START)
    assert read.rows[0].values == {"kv_cache_tokens": 372736, "kv_cache_bytes": 45.5 * 2**30}


def test_a_start_that_ends_before_its_cache_is_refused(tmp_path: Path) -> None:
    (read,) = every(tmp_path, "\n".join(START.splitlines()[:2]))
    assert not read.rows
    assert (read.refused[0].line, "KV cache" in read.refused[0].reason) == (1, True)
    (read,) = every(tmp_path, START.replace("62.25", "-0.25"))
    assert "above 0" in read.refused[0].reason
