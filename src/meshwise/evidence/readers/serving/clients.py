"""Reads results of the clients of vLLM (``bench serve --save-result``) and SGLang (``bench_serving``): one JSON
object per run."""

from __future__ import annotations

from typing import Any

from meshwise.evidence.readers.documents import JsonObject, number_at, text_at
from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    FileValue,
    RefusedLine,
    count_or_none,
    positive,
    without_empty,
)

_COMMON = {"completed", "total_input_tokens", "total_output_tokens", "output_throughput"}
_SGLANG = (
    "total_output_tokens_retokenized",
    "server_info",
    "sharegpt_output_len",
    "random_range_ratio",
)
_ENGINES = ("vllm", "sglang", "trtllm", "tensorrt-llm")
_UNLIMITED = ("inf", "infinity")
_DRAFTS = ("accept_length", "spec_decode_acceptance_length")


def claims_client(content: dict[str, Any]) -> bool:
    """Whether an object is the result of one of the clients."""
    return content.keys() >= _COMMON


def read_client(objects: list[JsonObject]) -> FileFound:
    """A row for each run."""
    rows, refused = list[FileRow](), list[RefusedLine]()
    forms = []
    for line, content in objects:
        sglang = any(key in content for key in _SGLANG)
        forms.append("SGLang bench_serving" if sglang else "vLLM bench serve")
        found = _run(content, sglang)
        if isinstance(found, str):
            refused.append(RefusedLine(line, found))
        else:
            rows.append(FileRow(line, without_empty(found)))
    return FileFound("serving", forms[0], rows, refused)


def _run(content: dict[str, Any], sglang: bool) -> dict[str, FileValue | None] | str:
    done = count_or_none(content.get("completed"))
    asked = count_or_none(content.get("num_prompts"))
    failed = count_or_none(content.get("failed"))
    if done is None:
        return "completed requests expected, found none"
    if failed is not None or (asked is not None and asked != done):
        return f"every request completed expected, found {done} of {asked or done + (failed or 0)}"
    if content.get("ramp_up_strategy"):
        return "a steady load expected, found a rate that ramps up"
    drafted = next((d for key in _DRAFTS if (d := number_at(content, key))), None)
    if isinstance(drafted, (int, float)) and drafted > 1.0:
        return f"one token per pass expected, found drafts ({drafted:g} accepted): no table has a column for them"
    lengths = [
        positive(content.get(key), key) for key in ("total_input_tokens", "total_output_tokens")
    ]
    wrong = next((why for why in lengths if isinstance(why, str)), None)
    if wrong is not None:
        return wrong
    isl, osl = (max(round(float(total) / done), 1) for total in lengths)
    measured = _measured(content, osl)
    if isinstance(measured, str):
        return measured
    load = _load(content, done)
    if isinstance(load, str):
        return load
    if isinstance(number_at(content, "server_info", "decode"), list):
        return "one engine expected, found prefill and decode apart"
    return {
        **_engine(content, sglang),
        "isl": isl,
        "osl": osl,
        **load,
        **measured,
        "requests": done,
    }


def _measured(content: dict[str, Any], osl: int) -> dict[str, FileValue | None] | str:
    """Mean times and the output's rate; an answer of one token has no time per further token."""
    found: dict[str, FileValue | None] = {}
    keys = {"output_throughput": ("output_tokens_per_s", 1.0), "mean_ttft_ms": ("ttft_s", 1e-3)}
    if osl > 1:
        keys["mean_tpot_ms"] = "tpot_s", 1e-3
    for key, (name, factor) in keys.items():
        if key not in content:
            continue  # a metric that was not asked for
        value = positive(content[key], key)
        if isinstance(value, str):
            return value
        found[name] = value * factor
    return found


def _load(content: dict[str, Any], done: int) -> dict[str, FileValue | None] | str:
    """How requests came: so many in flight, at a rate, or all at once."""
    rate, most = number_at(content, "request_rate"), count_or_none(content.get("max_concurrency"))
    if rate is not None and str(rate).lower() not in _UNLIMITED:
        limited = positive(rate, "request_rate")
        if isinstance(limited, str):
            return limited
        # what was in flight was not chosen
        return {"request_rate_per_s": limited, "max_concurrency": most}
    if most is not None:
        return {"concurrency": min(most, done)}
    return {"all_at_once": True}


def _engine(content: dict[str, Any], sglang: bool) -> dict[str, FileValue | None]:
    """What served, as far as the client knows it: its own server's arguments, or what the user noted."""
    server = content.get("server_info")
    server = server if isinstance(server, dict) else {}
    backend = str(content.get("backend") or "").lower()
    named = next((e for e in _ENGINES if backend.startswith(e)), None)
    degrees = {
        name: count_or_none(server.get(f"{name}_size"))
        or count_or_none(content.get(name))
        or count_or_none(content.get(_LONG[name]))
        for name in _LONG
    }
    version = text_at(server, "version") if sglang else None
    if server.get("enable_dp_attention") and degrees["tp"] and degrees["dp"]:
        # its replicas of the attention are within its tensor parallel ranks
        degrees["tp"] = degrees["tp"] // degrees["dp"] or None
    return {
        "model": text_at(server, "model_path")
        or text_at(content, "model_id")
        or text_at(content, "model"),
        "engine": "sglang" if sglang and server else named if sglang or named != "sglang" else None,
        "engine_version": version,
        **degrees,
        "dtype": _format(text_at(server, "quantization")),
        "kv_dtype": _format(text_at(server, "kv_cache_dtype")),
    }


_LONG = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "ep": "expert_parallel_size",
}


def _format(word: str | None) -> str | None:
    """A format that an engine was told to use; None where it follows the checkpoint."""
    plain = (word or "").lower()
    return "fp8" if plain.startswith("fp8") else None
