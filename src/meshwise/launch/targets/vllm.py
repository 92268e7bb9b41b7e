"""What vLLM's flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

import re
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
    is_routed,
    rule_fields,
    rule_settings,
    server_limits,
)
from meshwise.launch.settings.settings import Read, Settings, contradiction
from meshwise.launch.table import Target

# connectors of ``--kv-transfer-config`` that keep a server's own cache elsewhere (vLLM 0.33.0,
# kv_connector/factory.py); with another role than both they hand it to another server
_STORES = ("OffloadingConnector", "SimpleCPUOffloadConnector", "LMCacheConnectorV1",
           "LMCacheMPConnector", "FlexKVConnectorV1", "HF3FSKVConnector", "MooncakeStoreConnector")  # fmt: skip


def is_local(flag: str, values: list[str]) -> bool:
    """Whether a flag that may put prompts and answers on GPUs of their own keeps them on the same."""
    said = " ".join(values)
    connector = re.search(r'"kv_connector"\s*:\s*"(\w+)"', said)
    role = re.search(r'"kv_role"\s*:\s*"(\w+)"', said)
    return (
        flag == "--kv-transfer-config"
        and connector is not None
        and connector.group(1) in _STORES
        and role is not None
        and role.group(1) == "kv_both"
    )


def _settings(job: Job) -> Settings:
    """GPUs = tp · pp · dp; the experts' grid is derived: by TP over tp · dp ranks, or with
    ``--enable-expert-parallel`` one expert group of as many. Replicas whose experts are apart are
    servers of their own."""
    s: Settings = {"tp": job.tp}
    if job.pp > 1:
        s["pp"] = job.pp
    # replicas in one engine share their experts: those that keep their own are servers apart
    joined = job.spans_replicas or not (job.has_experts_grid or is_routed(job.model))
    # an engine over several nodes is a server of its own, but where experts join its replicas
    apart = job.tp * job.pp > job.gpus_per_node and not job.spans_replicas
    if job.dp > 1 and joined and not apart:
        s["dp"] = job.dp
    if job.ep > 1 and job.etp == 1 and job.ep in (job.tp * job.dp, job.tp):
        s["expert_parallel"] = True
    if job.dcp > 1:
        s["dcp"] = job.dcp
    s |= server_limits(job)
    if job.memory_share is not None:
        s["memory_share"] = job.memory_share
    s |= rule_settings(job, _RULES)
    s |= exchange_settings(job, _BACKENDS)
    return s | formats.format_settings(job, "fp8")


# vllm/config/parallel.py of 0.33.0 and of releases before: kernels of low latency send each copy by itself
_BACKENDS = {
    "allgather_reducescatter": "allgather",
    "naive": "allgather",
    "deepep_high_throughput": "deepep",
    "deepep_v2": "deepep",
    "mori_high_throughput": "deepep",
    "mori": "deepep",
    "deepep_low_latency": "alltoall",
    "mori_low_latency": "alltoall",
    "pplx": "alltoall",
    "nixl_ep": "alltoall",
    "flashinfer_all2allv": "alltoall",
    "flashinfer_nvlink_one_sided": "alltoall",
    "flashinfer_nvlink_two_sided": "alltoall",
}
_RULES = {
    ("eager", True): "eager",
    ("eager", False): "graphs",
    ("chunked_prefill", True): "chunked",
    ("chunked_prefill", False): "whole",
}


def read(s: Settings, world: int | None) -> Read:
    del world  # its own degrees say
    tp, dp = s.get("tp", 1), s.get("dp", 1)
    dcp = s.get("dcp", 1)
    if tp % dcp:
        raise contradiction(
            "--decode-context-parallel-size",
            dcp,
            f"does not divide the {tp} TP ranks",
            f"divisors of {tp}",
        )
    if s.get("dp_local") and s["dp_local"] > dp:
        raise contradiction(
            "--data-parallel-size-local",
            s["dp_local"],
            f"more than the {dp} replicas",
            f"1 to {dp}",
        )
    _check_nodes(s, tp * s.get("pp", 1), dp)
    spread = bool(s.get("expert_parallel"))
    found = {
        "tp": tp,
        "pp": s.get("pp", 1),
        "dp": dp,
        "ep": tp * dp if spread else 1,
        # replicas of a dense model share nothing; experts by TP lie on all tp · dp ranks
        "etp": 1 if spread else tp * (dp if s.get("experts") else 1),
        "dcp": dcp,
        "memory_share": s.get("memory_share"),
        **formats.format_fields(s),
        **rule_fields(s, {"eager": ("eager", "graphs"), "chunked_prefill": ("chunked", "whole")}),
    }
    exchanged, notes = exchange_fields(s, _BACKENDS)
    found |= exchanged
    if not spread and dp > 1 and s.get("experts") is None:
        notes.append(
            "experts, if the model has any, lie by TP over all tp · dp ranks (etp = tp · dp)"
        )
    if s.get("pcp", 1) > 1:
        notes.append(f"prefill context parallelism of {s['pcp']} is not priced")
    if s.get("max_len") not in (None, -1):
        found["max_len"] = s["max_len"]
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * dp
    if s.get("speculation") or s.get("draft_model"):
        more, said = _drafts(s)
        found |= more
        notes.append(said)
    return found, notes


def _check_nodes(s: Settings, engine: int, dp: int) -> None:
    """``--nnodes`` is of the whole server; each node has as many ranks (vLLM, ``ParallelConfig``:
    nnodes over the nodes of data parallelism, world over these)."""
    nodes = s.get("nodes")
    if nodes is None:
        return
    apart = dp // s["dp_local"] if s.get("dp_local") and dp % s["dp_local"] == 0 else 1
    if nodes % apart or engine % (nodes // apart):
        raise contradiction(
            "--nnodes",
            nodes,
            f"does not share the {engine} ranks of an engine (tp · pp) evenly",
            [d * apart for d in range(1, engine + 1) if engine % d == 0],
        )


def _drafts(s: Settings) -> tuple[dict[str, Any], str]:
    """``--speculative-config JSON``, or the flags of older versions."""
    import json

    table: Any = {"num_speculative_tokens": s.get("draft_tokens"), "method": "draft model"}
    if s.get("speculation"):
        try:
            table = json.loads(s["speculation"])
        except (ValueError, RecursionError):
            table = None
    tokens = table.get("num_speculative_tokens") if isinstance(table, dict) else None
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens < 64:
        raise InputError(
            "--speculative-config: no number of drafted tokens was read",
            field="--speculative-config",
            value=str(s.get("speculation"))[:60],
            legal='JSON with "num_speculative_tokens": 1 to 63',
        )
    return drafts(str(table.get("method") or "draft model"), tokens)


def write(job: Job, chosen: Target) -> Written:
    s = _settings(job)
    engine = job.tp * job.pp
    more: tuple[str, ...] = ()
    whole = engine * s.get("dp", 1)
    nodes = -(-whole // job.gpus_per_node)
    if nodes > 1:
        # of the whole server, of which the first node alone has the API; a rank to start at would
        # make that node balance its own replicas only (EngineArgs.create_engine_config)
        more = (
            f"--nnodes {nodes} --node-rank $NODE_RANK --master-addr $MASTER_ADDR",
            "$([ $NODE_RANK -gt 0 ] && echo --headless)",
        )
        if engine <= job.gpus_per_node:
            more = (f"--data-parallel-size-local {job.gpus_per_node // engine}", *more)
    return flag_lines(f"vllm serve {shlex.quote(job.model)}", s, chosen, more), {}
