"""What SGLang's flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

import shlex
from typing import Any

from meshwise.errors import InputError
from meshwise.launch.command_text import Written, flag_lines
from meshwise.launch.job import Job
from meshwise.launch.settings import formats
from meshwise.launch.settings.serving import (
    drafts,
    exchange_fields,
    exchange_settings,
    rule_settings,
    server_limits,
)
from meshwise.launch.settings.settings import Read, Settings, contradiction
from meshwise.launch.table import Target


def _settings(job: Job) -> Settings:
    """TP is over all ranks. Without DP attention GPUs = tp · pp · dp; with it DP splits TP, and GPUs =
    tp · pp. Experts: EP divides TP, the rest of it splits them."""
    joined = job.spans_replicas and job.dp > 1
    whole = job.tp * job.dp if joined else job.tp
    s: Settings = {"tp": whole}
    if job.pp > 1:
        s["pp"] = job.pp
    # plain replicas share a node; over nodes they are servers behind a router
    if job.dp > 1 and (joined or job.gpus <= job.gpus_per_node):
        s["dp"] = job.dp
    if joined:
        s["dp_attention"] = True
    if job.ep > 1:
        s["ep"] = job.ep
    if job.dcp > 1:
        s["dcp"] = job.dcp
    s |= server_limits(job)
    if joined and "max_seqs" in s:
        s["max_seqs"] *= job.dp
    if job.memory_share is not None:
        s["memory_share"] = job.memory_share
    if job.ep == job.tp * (job.dp if joined else 1):  # what every backend but none makes of it
        s |= exchange_settings(job, _BACKENDS)
    s |= rule_settings(job, {("eager", True): "eager", ("chunked_prefill", True): "mixed"})
    if job.chunked_prefill is False and job.chunk is None:
        s["chunk"] = -1
    return s | formats.format_settings(job, "fp8_e4m3")


# moe_a2a_backend of its server arguments; those of low latency in decode as its own are (deepep_mode auto)
_BACKENDS = {
    "none": "allgather",
    "deepep": "deepep",
    "mooncake": "deepep",
    "nixl": "deepep",
    "mori": "deepep",
    "flashinfer": "alltoall",
}


def read(s: Settings, world: int | None) -> Read:
    del world  # its own degrees say
    if s.get("deepep") and s.get("exchange") is None:
        s = s | {"exchange": "deepep"}
    whole, dp, ep = s.get("tp", 1), s.get("dp", 1), s.get("ep", 1)
    spread = s.get("exchange") in _BACKENDS and s["exchange"] != "none"
    if spread:  # ServerArgs._handle_a2a_moe
        ep = whole
    joined = bool(s.get("dp_attention")) and dp > 1
    if joined and whole % dp:
        legal = [d for d in range(1, whole + 1) if whole % d == 0]
        raise contradiction(
            "--dp-size", dp, f"with --enable-dp-attention DP splits the {whole} TP ranks", legal
        )
    if whole % ep:
        legal = [d for d in range(1, whole + 1) if whole % d == 0]
        raise contradiction("--ep-size", ep, f"does not divide the {whole} TP ranks", legal)
    _check_nodes(s, whole * s.get("pp", 1), dp if not joined else 1)
    found = {
        "tp": whole // dp if joined else whole,
        "pp": s.get("pp", 1),
        "dp": dp,
        "ep": ep,
        "etp": whole // ep,
        "dcp": s.get("dcp", 1),
        "memory_share": s.get("memory_share"),
        **formats.format_fields(s),
        **_rules(s),
    }
    if s.get("max_len") not in (None, -1):
        found["max_len"] = s["max_len"]
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * (1 if joined else dp)
    exchanged, notes = exchange_fields(s, _BACKENDS)
    found |= exchanged
    if spread and s.get("ep", whole) != whole:
        notes.append(
            f"--ep-size {s['ep']}: {s['exchange']} spreads experts over all {whole} TP ranks"
        )
    if s.get("speculation"):
        more, said = _drafts(s)
        found |= more
        notes.append(said)
    return found, notes


def _rules(s: Settings) -> dict[str, Any]:
    """``--chunked-prefill-size -1``: prompts are not cut (its documentation, server arguments)."""
    found = {"eager": s.get("eager"), "chunked_prefill": s.get("mixed") or None}
    if s.get("chunk") == -1:
        if found.get("chunked_prefill"):
            raise contradiction(
                "--chunked-prefill-size",
                -1,
                "prompts that are not cut have no chunks to mix",
                "one of both",
            )
        found["chunked_prefill"] = False
    return found


def _check_nodes(s: Settings, engine: int, apart: int) -> None:
    """An engine shares its ranks evenly over ``--nnodes``; plain replicas do not span nodes (SGLang,
    ``ServerArgs.check_server_args``)."""
    nodes = s.get("nodes")
    if nodes is None:
        return
    if engine % nodes:
        legal = [d for d in range(1, engine + 1) if engine % d == 0]
        raise contradiction(
            "--nnodes", nodes, f"does not share the {engine} ranks (tp · pp) evenly", legal
        )
    if nodes > 1 and apart > 1:
        raise contradiction(
            "--dp-size",
            apart,
            f"plain replicas do not run over {nodes} nodes",
            "with --enable-dp-attention, or a server on each node behind a router",
        )


def _drafts(s: Settings) -> tuple[dict[str, Any], str]:
    """A chain drafts a token per step; ``--speculative-num-draft-tokens`` counts what is verified at
    once, the token before the drafts too. A tree (``--speculative-eagle-topk`` above 1) verifies more
    than it can accept: priced as the chain of its verified tokens."""
    steps, verified = s.get("draft_steps"), s.get("draft_tokens")
    tokens = verified - 1 if verified is not None else steps
    if tokens is None or tokens < 1 or tokens > 63:
        raise InputError(
            "--speculative-algorithm: no number of drafted tokens was read",
            field="--speculative-num-draft-tokens",
            value=verified,
            legal="2 to 64",
        )
    found, said = drafts(str(s["speculation"]), tokens)
    return found, f"{said}: {tokens + 1} tokens are verified at once"


def write(job: Job, chosen: Target) -> Written:
    s = _settings(job)
    more: tuple[str, ...] = ()
    whole = s["tp"] * job.pp * (1 if s.get("dp_attention") else s.get("dp", 1))
    if whole > job.gpus_per_node:
        nodes = -(-whole // job.gpus_per_node)
        more = (f"--nnodes {nodes} --node-rank $NODE_RANK --dist-init-addr $MASTER_ADDR:20000",)
    program = f"python -m sglang.launch_server --model-path {shlex.quote(job.model)}"
    return flag_lines(program, s, chosen, more), {}
