"""What vLLM's and SGLang's flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

from typing import Any

from meshwise.errors import InputError
from meshwise.launch.job import Job
from meshwise.launch.settings import Read, Settings, contradiction
from meshwise.launch.targets import serving_formats


def per_replica(job: Job) -> int | None:
    """Sequences of one replica; more where the replicas do not divide the concurrency."""
    return None if job.concurrency is None else -(-job.concurrency // job.dp)


_DRAFTERS = ("eagle", "eagle3", "nextn", "mtp", "medusa", "mlp_speculator", "standalone", "draft")


def drafts(method: str, tokens: int) -> tuple[dict[str, Any], str]:
    """Fields of speculation: a method without a model of its own costs nothing, the others a layer."""
    name = method.lower()
    cost = "layer" if any(d in name for d in _DRAFTERS) else "none"
    return {
        "draft_tokens": tokens,
        "draft_cost": cost,
    }, f"drafted tokens of a step: {tokens} ({method})"


def load(job: Job) -> Settings:
    """Longest sequence, sequences of a replica and tokens of an iteration, as far as they are said."""
    said = {"max_len": job.max_len, "max_seqs": per_replica(job), "chunk": job.chunk}
    return {name: value for name, value in said.items() if value is not None}


# -- vLLM --------------------------------------------------------------------------------------------


def vllm_settings(job: Job) -> Settings:
    """GPUs = tp · pp · dp; the experts' grid is derived: by TP over tp · dp ranks, or with
    ``--enable-expert-parallel`` one expert group of as many. Replicas whose experts are apart are
    servers of their own."""
    s: Settings = {"tp": job.tp}
    if job.pp > 1:
        s["pp"] = job.pp
    joined = not job.has_experts_grid or job.spans_replicas
    # an engine over several nodes is a server of its own, but where experts join its replicas
    apart = job.tp * job.pp > job.gpus_per_node and not job.spans_replicas
    if job.dp > 1 and joined and not apart:
        s["dp"] = job.dp
    if job.ep > 1 and job.etp == 1 and job.ep in (job.tp * job.dp, job.tp):
        s["expert_parallel"] = True
    if job.dcp > 1:
        s["dcp"] = job.dcp
    s |= load(job)
    if job.memory_share is not None:
        s["memory_share"] = job.memory_share
    return s | serving_formats.settings(job, "fp8")


def vllm_fields(s: Settings) -> Read:
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
    _vllm_nodes(s, tp * s.get("pp", 1), dp)
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
        **serving_formats.fields(s),
    }
    notes = []
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
        more, said = _vllm_drafts(s)
        found |= more
        notes.append(said)
    return found, notes


def _vllm_nodes(s: Settings, engine: int, dp: int) -> None:
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


def _vllm_drafts(s: Settings) -> tuple[dict[str, Any], str]:
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


# -- SGLang ------------------------------------------------------------------------------------------


def sglang_settings(job: Job) -> Settings:
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
    s |= load(job)
    if joined and "max_seqs" in s:
        s["max_seqs"] *= job.dp
    if job.memory_share is not None:
        s["memory_share"] = job.memory_share
    return s | serving_formats.settings(job, "fp8_e4m3")


def sglang_fields(s: Settings) -> Read:
    whole, dp, ep = s.get("tp", 1), s.get("dp", 1), s.get("ep", 1)
    joined = bool(s.get("dp_attention")) and dp > 1
    if joined and whole % dp:
        legal = [d for d in range(1, whole + 1) if whole % d == 0]
        raise contradiction(
            "--dp-size", dp, f"with --enable-dp-attention DP splits the {whole} TP ranks", legal
        )
    if whole % ep:
        legal = [d for d in range(1, whole + 1) if whole % d == 0]
        raise contradiction("--ep-size", ep, f"does not divide the {whole} TP ranks", legal)
    _sglang_nodes(s, whole * s.get("pp", 1), dp if not joined else 1)
    found = {
        "tp": whole // dp if joined else whole,
        "pp": s.get("pp", 1),
        "dp": dp,
        "ep": ep,
        "etp": whole // ep,
        "dcp": s.get("dcp", 1),
        "memory_share": s.get("memory_share"),
        **serving_formats.fields(s),
    }
    if s.get("max_len") not in (None, -1):
        found["max_len"] = s["max_len"]
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * (1 if joined else dp)
    notes: list[str] = []
    if s.get("speculation"):
        more, said = _sglang_drafts(s)
        found |= more
        notes.append(said)
    return found, notes


def _sglang_nodes(s: Settings, engine: int, apart: int) -> None:
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


def _sglang_drafts(s: Settings) -> tuple[dict[str, Any], str]:
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
