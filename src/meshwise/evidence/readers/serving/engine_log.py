"""Reads what engines say when they start: the model and its degrees, the KV cache, and memory of the weights."""

from __future__ import annotations

import re

from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    FileValue,
    RefusedLine,
    positive,
    without_empty,
)

_FORM = "engine start-up log"
_GIB = float(1 << 30)
_VLLM = re.compile(r"LLM engine \(v([^)\s]+)\) with config: .*?model='([^']+)'")
_VLLM_DEGREES = re.compile(r"\b(tensor|pipeline|data)_parallel_size=(\d+)")
_SGLANG = re.compile(r"\bserver_args=ServerArgs\(.*?model_path='([^']+)'")
_SGLANG_DEGREES = re.compile(r"\b(tp|pp|dp|ep)_size=(\d+)")
_LENGTH = re.compile(r"\b(?:max_seq_len|context_len(?:gth)?)=(\d+)")
_TOKENS = (
    re.compile(r"(?<!CPU )\bKV cache size: ([\d,]+) tokens"),
    re.compile(r"\bmax_total_num_tokens=(\d+)"),
    re.compile(r"for max tokens in paged KV cache \((\d+)\)"),
)
_CACHE = (
    re.compile(r"\bAvailable KV cache memory: (-?[\d.]+|nan) GiB"),
    re.compile(r"\bAllocated ([\d.]+) GiB for max tokens in paged KV cache"),
)
_HALVES = re.compile(r"\bKV Cache is allocated\..*?K size: ([\d.]+) GB, V size: ([\d.]+) GB")
_TOGETHER = re.compile(r"\bKV Cache is allocated\..*?KV size: ([\d.]+) GB")
_WEIGHTS = (
    re.compile(r"\bModel loading took ([\d.]+) Gi?B"),
    re.compile(r"\bLoad weight end\..*?mem usage=([\d.]+) GB"),
)
_BLOCKS = re.compile(r"# (?:GPU|cuda) blocks: (\d+)", re.IGNORECASE)
_TELLING = (
    "KV cache",
    "KV Cache",
    "server_args",
    "LLM engine",
    "max_total_num_tokens",
    "loading took",
    "Load weight",
    " blocks:",
)
_AXES = {"tensor": "tp", "pipeline": "pp", "data": "dp"}


class EngineLog:
    """A log, line by line: a start for each engine's arguments; of its ranks the one with the least cache."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, dict[str, FileValue]]] = []
        self._refused: list[RefusedLine] = []

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return _TELLING

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if not any(word in line for word in _TELLING):
            return
        vllm, sglang = _VLLM.search(line), _SGLANG.search(line)
        if vllm:
            degrees = {_AXES[name]: int(n) for name, n in _VLLM_DEGREES.findall(line)}
            self._begin(number, line, degrees, vllm[2], "vllm", vllm[1])
        elif sglang:
            degrees = {name: int(n) for name, n in _SGLANG_DEGREES.findall(line)}
            if "enable_dp_attention=True" in line and degrees.get("dp"):
                degrees["tp"] = max(degrees.get("tp", 1) // degrees["dp"], 1)
            self._begin(number, line, degrees, sglang[1], "sglang", None)
        self._figures(number, line)

    def _begin(
        self,
        number: int,
        line: str,
        degrees: dict[str, int],
        model: str,
        engine: str,
        version: str | None,
    ) -> None:
        if self._starts and "model" in self._starts[-1][1]:
            same = self._starts[-1][1]
            if (
                same["model"] == model
                and "kv_cache_tokens" not in same
                and "kv_cache_bytes" not in same
            ):
                return  # said again by another process
        length = _LENGTH.search(line)
        values = without_empty(
            {
                "engine": engine,
                "engine_version": version,
                "model": model,
                **degrees,
                "context": int(length[1]) if length else None,
            }
        )
        self._starts.append((number, values))

    def _figures(self, number: int, line: str) -> None:
        found: dict[str, float] = {}
        for name, patterns, unit in (
            ("kv_cache_tokens", _TOKENS, 1.0),
            ("kv_cache_bytes", _CACHE, _GIB),
            ("weights_bytes", _WEIGHTS, _GIB),
            ("kv_cache_blocks", (_BLOCKS,), 1.0),
        ):
            match = next((m for p in patterns if (m := p.search(line))), None)
            if match is None:
                continue
            value = positive(match[1], name)
            if isinstance(value, str):
                self._refused.append(RefusedLine(number, value))
            else:
                found[name] = value * unit
        halves, whole = _HALVES.search(line), _TOGETHER.search(line)
        if whole:
            found["kv_cache_bytes"] = float(whole[1]) * _GIB
        if halves:
            found["kv_cache_bytes"] = (float(halves[1]) + float(halves[2])) * _GIB
        if not found:
            return
        if not self._starts:
            self._starts.append((number, {}))
        values = self._starts[-1][1]
        for name, value in found.items():
            before = values.get(name)
            pick = max if name == "weights_bytes" else min
            kept = pick(float(before), value) if isinstance(before, (int, float)) else value
            counted = name in ("kv_cache_tokens", "kv_cache_blocks")
            values[name] = int(kept) if counted else kept

    def found(self) -> FileFound:
        """A row for each start that says its cache or its weights."""
        telling = ("kv_cache_tokens", "kv_cache_bytes", "kv_cache_blocks", "weights_bytes")
        rows = [FileRow(line, v) for line, v in self._starts if any(name in v for name in telling)]
        refused = list(self._refused)
        for line, values in self._starts:
            if "model" in values and not any(name in values for name in telling[:3]):
                refused.append(
                    RefusedLine(
                        line, "the size of the KV cache below the engine's arguments expected"
                    )
                )
        good = [row for row in rows if any(name in row.values for name in telling[:3])]
        return FileFound("engine", _FORM, good, refused)
