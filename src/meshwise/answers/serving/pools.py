"""Pools of prefill and decode in words."""

from __future__ import annotations

from meshwise.answers.text import words
from meshwise.answers.text.sentences import wrap
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.runs.matched_pools import MatchedPools
from meshwise.units import format_gpus, format_memory, format_time


def pools_line(found: MatchedPools | None) -> str:
    """Of the first line: what prefill and decode on GPUs of their own deliver."""
    if found is None:
        return "disaggregated: no two pools meet the limits"
    d = found.simulated
    rate = words.rate_words(d.tokens_per_s_per_device)
    return f"disaggregated {rate} tokens/s per GPU on {d.devices}"


def pools_words(found: MatchedPools | None, best: ServingRow | None) -> str:
    """The two pools as simulated, and how they stand to the best layout that does both."""
    if found is None:
        return "Disaggregated: no two pools meet the limits on these GPUs."
    d = found.simulated
    said = (
        f"Disaggregated: {d.prefill_instances} × prefill ({serving_mesh_words(d.prefill.layout)}) and "
        f"{d.decode_instances} × decode ({serving_mesh_words(d.decode.layout)}) on {format_gpus(d.devices)}, "
        f"{d.concurrency:,} requests in flight: {d.tokens_per_s_per_device:,.1f} tokens/s per "
        f"GPU, TTFT {format_time(d.ttft_s)} ({format_time(d.transfer_s)} of it moves "
        f"{format_memory(d.transfer_bytes)} of keys and values), TPOT {format_time(d.tpot_s)}; "
        f"{'the transfers bind' if d.bound == 'transfer' else d.bound + ' binds'}."
    )
    if best is not None:
        share = d.tokens_per_s_per_device / best.tokens_per_s_per_device - 1.0
        said += f" {words.signed(share)} against the best layout that does both."
    return wrap(said)
