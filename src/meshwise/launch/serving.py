"""What serving engines' flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

from typing import Any

from meshwise.errors import IllegalLayout, InputError, shorten
from meshwise.launch import serving_formats
from meshwise.launch.job import Job

Settings = dict[str, Any]
Read = tuple[dict[str, Any], list[str]]  # fields of a job, notes


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


def contradiction(field: str, value: Any, why: str, legal: Any) -> IllegalLayout:
    shown = shorten(value) if isinstance(value, str) else value
    return IllegalLayout(f"{field}={shown}: {why}", field=field, value=value, legal=legal)


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
    if job.max_len is not None:
        s["max_len"] = job.max_len
    if job.concurrency is not None:
        s["max_seqs"] = per_replica(job)
    if job.chunk is not None:
        s["chunk"] = job.chunk
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
    spread = bool(s.get("expert_parallel"))
    found = {
        "tp": tp,
        "pp": s.get("pp", 1),
        "dp": dp,
        "ep": tp * dp if spread else 1,
        # replicas of a dense model share nothing; experts by TP lie on all tp · dp ranks
        "etp": 1 if spread else tp * (dp if s.get("experts") else 1),
        "dcp": dcp,
        **serving_formats.fields(s),
    }
    notes = []
    if not spread and dp > 1 and s.get("experts") is None:
        notes.append(
            "experts, if the model has any, lie by TP over all tp · dp ranks (etp = tp · dp)"
        )
    if s.get("pcp", 1) > 1:
        notes.append(f"prefill context parallelism of {s['pcp']} is not priced")
    if s.get("max_len") is not None:
        found["max_len"] = _length(s["max_len"])
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * dp
    if s.get("speculation") or s.get("draft_model"):
        more, said = _vllm_drafts(s)
        found |= more
        notes.append(said)
    return found, notes


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


def _length(text: Any) -> int | None:
    """``8192``, ``8k`` or ``auto``."""
    value = str(text).strip().lower()
    if value == "auto" or value == "-1":
        return None
    scale = 1
    if value[-1:] in ("k", "m"):
        scale = 1000 if str(text)[-1].islower() else 1024
        scale **= 1 if value[-1] == "k" else 2
        value = value[:-1]
    if not value.replace(".", "", 1).isdigit():
        raise InputError(
            f"--max-model-len: {text!r} is no length",
            field="--max-model-len",
            value=str(text),
            legal="tokens, such as 8192 or 8k",
        )
    return int(float(value) * scale)


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
    if job.max_len is not None:
        s["max_len"] = job.max_len
    if job.concurrency is not None:
        s["max_seqs"] = (per_replica(job) or 1) * (job.dp if joined else 1)
    if job.chunk is not None:
        s["chunk"] = job.chunk
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
    found = {
        "tp": whole // dp if joined else whole,
        "pp": s.get("pp", 1),
        "dp": dp,
        "ep": ep,
        "etp": whole // ep,
        "dcp": s.get("dcp", 1),
        **serving_formats.fields(s),
    }
    if s.get("max_len") is not None:
        found["max_len"] = s["max_len"]
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * (1 if joined else dp)
    notes: list[str] = []
    if s.get("speculation"):
        more, said = _sglang_drafts(s)
        found |= more
        notes.append(said)
    return found, notes


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


# -- TensorRT-LLM ------------------------------------------------------------------------------------


def trtllm_settings(job: Job) -> Settings:
    """Attention data parallelism gives every rank of the TP group its own requests, and exists in
    YAML only; other replicas are servers of their own. MoE: tp · ep of the experts = tp_size."""
    joined = job.spans_replicas and job.dp > 1 and job.tp == 1
    whole = job.tp * job.dp if joined else job.tp
    s: Settings = {"tp": whole}
    if job.pp > 1:
        s["pp"] = job.pp
    if job.ep > 1:
        s["ep"] = job.ep
    if job.max_len is not None:
        s["max_len"] = job.max_len
    if job.concurrency is not None:
        s["max_seqs"] = per_replica(job)
    if job.chunk is not None:
        s["chunk"] = job.chunk
    yaml: dict[str, Any] = {}
    if job.has_experts_grid and job.ep * job.etp == whole:
        yaml["moe_tensor_parallel_size"] = job.etp
        yaml["moe_expert_parallel_size"] = job.ep
    if joined:
        yaml["enable_attention_dp"] = True
    if job.kv_dtype == "fp8":
        yaml["kv_cache_config"] = {"dtype": "fp8"}
    s["yaml"] = yaml
    return s


def trtllm_fields(s: Settings) -> Read:
    yaml = s.get("yaml", {})

    def number(key: str, flag: Any) -> Any:
        value = yaml.get(key, flag)
        if flag is not None and key in yaml and yaml[key] != flag:
            raise contradiction(f"--{key}", flag, f"the file says {yaml[key]}", yaml[key])
        return value

    whole = number("tensor_parallel_size", s.get("tp")) or 1
    pp = number("pipeline_parallel_size", s.get("pp")) or 1
    ep = number("moe_expert_parallel_size", s.get("ep"))
    etp = yaml.get("moe_tensor_parallel_size")
    if ep is None:
        ep = whole // etp if etp and whole % etp == 0 else 1
    if etp is None:
        etp = max(1, whole // ep)
    if ep * etp != whole:
        raise contradiction(
            "moe_tensor_parallel_size",
            etp,
            f"· moe_expert_parallel_size {ep} is not the tensor_parallel_size {whole}",
            f"{whole // ep}" if whole % ep == 0 else f"divisors of {whole}",
        )
    joined = bool(yaml.get("enable_attention_dp")) and whole > 1
    found = {
        "tp": 1 if joined else whole,
        "pp": pp,
        "dp": whole if joined else 1,
        "ep": ep,
        "etp": etp,
    }
    cache = yaml.get("kv_cache_config")
    said = cache.get("dtype") if isinstance(cache, dict) else None
    found |= serving_formats.fields({"kv_dtype": said if said is not None else s.get("kv_dtype")})
    notes = []
    if s.get("cp", 1) > 1:
        notes.append(f"context parallelism of {s['cp']} is not priced in serving")
    if s.get("max_len") is not None:
        found["max_len"] = s["max_len"]
    if s.get("max_seqs") is not None:
        found["concurrency"] = s["max_seqs"] * found["dp"]
    if s.get("chunk") is not None:
        found["chunk"] = s["chunk"]
    speculation = yaml.get("speculative_config")
    if isinstance(speculation, dict):
        keys = ("num_nextn_predict_layers", "max_draft_len")
        tokens = next((speculation[k] for k in keys if isinstance(speculation.get(k), int)), 1)
        more, said = drafts(str(speculation.get("decoding_type", "draft model")), tokens)
        found |= more
        notes.append(said)
    return found, notes
