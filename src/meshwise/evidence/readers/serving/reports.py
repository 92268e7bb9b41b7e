"""Reads JSON reports of serving benchmarks: trtllm-bench's, and genai-perf's (and AIPerf's)."""

from __future__ import annotations

from typing import Any

from meshwise.evidence.readers.collectives.run import known_device
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

_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_FORMATS = {"fp8": "fp8", "nvfp4": "nvfp4", "fp8_block_scales": "fp8", "w4a8_mxfp4_fp8": None}
_Run = dict[str, FileValue | None]


def claims_trtllm(content: dict[str, Any]) -> bool:
    """Whether an object is a report of trtllm-bench."""
    return all(
        isinstance(content.get(key), dict) for key in ("engine", "world_info", "performance")
    )


def claims_perf(content: dict[str, Any]) -> bool:
    """Whether an object is an export of genai-perf or AIPerf."""
    return "input_config" in content and isinstance(content.get("request_latency"), dict)


def read_trtllm(objects: list[JsonObject]) -> FileFound:
    """A row for each report."""
    return _found("trtllm-bench", objects, _trtllm)


def read_perf(objects: list[JsonObject]) -> FileFound:
    """A row for each export."""
    return _found("genai-perf", objects, _perf)


def _found(form: str, objects: list[JsonObject], read: Any) -> FileFound:
    rows, refused = list[FileRow](), list[RefusedLine]()
    for line, content in objects:
        found = read(content)
        if isinstance(found, str):
            refused.append(RefusedLine(line, found))
        else:
            rows.append(FileRow(line, without_empty(found)))
    return FileFound("serving", form, rows, refused)


def _numbers(content: object, paths: dict[str, tuple[tuple[str, ...], float]]) -> _Run | str:
    """Figures by name, where they stand and are above 0; in words what is wrong with one."""
    found: _Run = {}
    for name, (path, factor) in paths.items():
        said = number_at(content, *path)
        if said is None:
            continue
        value = positive(said, path[-1])
        if isinstance(value, str):
            return value
        found[name] = value * factor
    return found


def _trtllm(content: dict[str, Any]) -> _Run | str:
    engine, world = content["engine"], content["world_info"]
    lengths = _numbers(
        content,
        {
            "isl": (("request_info", "avg_input_length"), 1.0),
            "osl": (("request_info", "avg_output_length"), 1.0),
        },
    )
    measured = _numbers(
        content,
        {
            "output_tokens_per_s": (("performance", "system_output_throughput_tok_s"), 1.0),
            "ttft_s": (("streaming_metrics", "avg_ttft_ms"), 1e-3),
            "tpot_s": (("streaming_metrics", "avg_tpot_ms"), 1e-3),
            "mean_in_flight": (("request_info", "avg_num_concurrent_requests"), 1.0),
        },
    )
    if isinstance(lengths, str) or isinstance(measured, str):
        return lengths if isinstance(lengths, str) else str(measured)
    if "output_tokens_per_s" not in measured:
        return "performance.system_output_throughput_tok_s expected"
    quantised = (text_at(engine, "quantization") or "").lower()
    ep = count_or_none(world.get("ep_size"))
    return {
        "model": text_at(engine, "model") or text_at(engine, "model_path"),
        "device": known_device(text_at(content, "machine", "name") or ""),
        "devices": count_or_none(world.get("world_size")),
        "tp": count_or_none(world.get("tp_size")),
        "pp": count_or_none(world.get("pp_size")),
        "ep": ep,
        "engine": "trtllm",
        "engine_version": text_at(engine, "version"),
        "dtype": _FORMATS.get(quantised),
        "kv_dtype": "fp8" if (text_at(engine, "kv_cache_dtype") or "").lower() == "fp8" else None,
        **{name: round(float(str(value))) for name, value in lengths.items()},
        "request_rate_per_s": _rate(world.get("issue_rate")),
        "requests": count_or_none(number_at(content, "request_info", "num_requests")),
        **measured,
    }


def _rate(value: object) -> float | None:
    found = positive(value, "issue_rate")
    return found if isinstance(found, float) else None


def _perf(content: dict[str, Any]) -> _Run | str:
    config = content["input_config"]
    measured: _Run = {}
    for key, name in (("time_to_first_token", "ttft_s"), ("inter_token_latency", "tpot_s")):
        if not isinstance(content.get(key), dict):
            continue
        unit = _SECONDS.get(str(content[key].get("unit")).lower())
        if unit is None:
            return f"a unit of time of {key} expected, found {content[key].get('unit')!r}"
        value = positive(content[key].get("avg"), f"{key}.avg")
        if isinstance(value, str):
            return value
        measured[name] = value * unit
    figures = _numbers(
        content,
        {
            "isl": (("input_sequence_length", "avg"), 1.0),
            "osl": (("output_sequence_length", "avg"), 1.0),
            "output_tokens_per_s": (("output_token_throughput", "avg"), 1.0),
        },
    )
    if isinstance(figures, str):
        return figures
    for name in ("isl", "osl"):
        if name in figures:
            figures[name] = max(round(float(str(figures[name]))), 1)
    if not measured and "output_tokens_per_s" not in figures:
        return "time_to_first_token, inter_token_latency or output_token_throughput expected"
    return {**_asked(config), **figures, **measured}


def _asked(config: object) -> _Run:
    """What the client was asked: the model, and how requests come."""
    models = next(
        (
            m
            for p in (("model",), ("model_names",), ("endpoint", "model_names"))
            if (m := number_at(config, *p))
        ),
        None,
    )
    model = models[0] if isinstance(models, list) and models else models
    loads = (("perf_analyzer", "stimulus"), ("loadgen",), ())
    concurrency = next(
        (c for p in loads if (c := count_or_none(number_at(config, *p, "concurrency")))), None
    )
    rate = next((r for p in loads if (r := number_at(config, *p, "request_rate"))), None)
    backend = (text_at(config, "backend") or text_at(config, "endpoint", "backend") or "").lower()
    engine = {"vllm": "vllm", "tensorrtllm": "trtllm"}.get(backend)
    return {
        "model": model if isinstance(model, str) else None,
        "engine": engine,
        "concurrency": concurrency,
        "request_rate_per_s": _rate(rate),
    }
