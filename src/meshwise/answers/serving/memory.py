"""Tables of what a server's memory is taken by, and of what its KV cache holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, cast

from meshwise.answers.simulated import flight_words
from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.tables import Table
from meshwise.simulate.server import Simulated
from meshwise.units import format_memory


class RoomFigures(TypedDict, total=False):
    """Of one replica's cache: tokens, blocks, requests; bytes of a device."""

    kv_cache_tokens: int
    kv_cache_blocks: int
    max_model_len: int
    max_model_concurrency: float
    longest_request: int
    weights_bytes: float
    activations_bytes: float
    runtime_bytes: float
    graphs_bytes: float
    kv_cache_bytes: float
    reserve_bytes: float


PARTS = {
    "weights_bytes": "weights",
    "activations_bytes": "activations of the largest iteration",
    "runtime_bytes": "libraries, communicators",
    "graphs_bytes": "CUDA graphs",
    "kv_cache_bytes": "KV cache",
    "reserve_bytes": "left to others",
}


def memory_tables(record: Mapping[str, object]) -> tuple[Table, Table]:
    """(bytes of a device by part, what a replica's cache holds), of the record of ``serve``."""
    d = cast("Mapping[str, float]", record)
    parts = tuple(
        (name, format_memory(d[key]))
        for key, name in PARTS.items()
        if d[key] > 0 or key in ("weights_bytes", "kv_cache_bytes", "reserve_bytes")
    )
    memory = Table(
        "Memory per GPU, by part",
        ("what", "value"),
        (
            *parts,
            (f"with {d['running']} requests", format_memory(d["memory_bytes"])),
            ("usable of the device", format_memory(d["memory_limit_bytes"])),
            ("requests that fit", f"{d['max_concurrency']:,}"),
            ("fits", fits_words(bool(d["fits"]), bool(d["tight"]))),
        ),
    )
    cache = Table(
        "Cache of a replica, as the engine's log has it",
        ("what", "value"),
        (
            ("tokens", f"{d['kv_cache_tokens']:,}"),
            ("blocks", f"{d['kv_cache_blocks']:,}"),
            (
                f"requests of {d['max_model_len']:,} tokens (max_model_len)",
                f"{d['max_model_concurrency']:,.2f}",
            ),
            ("longest request that fits alone [tokens]", f"{d['longest_request']:,}"),
        ),
    )
    return memory, cache


def room_words(record: Mapping[str, object], asked: int, run: Simulated) -> list[str]:
    """What the KV cache holds, where that is less than what is asked for, or than what arrivals come to."""
    if record["fits"]:
        return []
    most, running = (cast(int, record[key]) for key in ("max_concurrency", "running"))
    if run.arrivals is not None:
        return [
            f"The KV cache is full: it holds {most:,} of the longest requests, and {flight_words(run)} in the "
            "mean."
        ]
    return [
        f"The KV cache does not hold {asked} requests: {most} fit, the others queue. The figures are those of "
        f"{running} in flight."
    ]
