"""What TensorRT-LLM's flags and YAML mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

import difflib
import shlex
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.command_text import Written, flag_lines
from meshwise.launch.job import Job
from meshwise.launch.settings import formats
from meshwise.launch.settings.serving import drafts, server_limits
from meshwise.launch.settings.settings import Read, Settings, contradiction, yes
from meshwise.launch.spelling.misspelt import ALIKE
from meshwise.launch.table import Target, target
from meshwise.strict_tables import fraction


def _settings(job: Job) -> Settings:
    """Attention data parallelism gives every rank of the TP group its own requests, and exists in
    YAML only; other replicas are servers of their own. MoE: tp · ep of the experts = tp_size."""
    joined = job.spans_replicas and job.dp > 1 and job.tp == 1
    whole = job.tp * job.dp if joined else job.tp
    s: Settings = {"tp": whole}
    if job.pp > 1:
        s["pp"] = job.pp
    if job.ep > 1:
        s["ep"] = job.ep
    s |= server_limits(job)
    yaml: dict[str, Any] = {}
    if job.has_experts_grid and job.ep * job.etp == whole:
        yaml["moe_tensor_parallel_size"] = job.etp
        yaml["moe_expert_parallel_size"] = job.ep
    if joined:
        yaml["enable_attention_dp"] = True
    if job.kv_dtype == "fp8":
        yaml["kv_cache_config"] = {"dtype": "fp8"}
    if job.chunked_prefill is not None:
        yaml["enable_chunked_prefill"] = job.chunked_prefill
    if job.eager:
        yaml["cuda_graph_config"] = None
    s["yaml"] = yaml
    return s


# the file's words for what flags say too
_LIMITS = {"max_seq_len": "max_len", "max_batch_size": "max_seqs", "max_num_tokens": "chunk"}
# keys of the file that are read, and what those that are not priced change
_READ = (
    *_LIMITS,
    *("tensor_parallel_size", "pipeline_parallel_size", "moe_expert_parallel_size"),
    *("moe_tensor_parallel_size", "enable_attention_dp", "speculative_config", "quant_config"),
    *("model", "kv_cache_config.dtype", "enable_chunked_prefill"),
    "kv_cache_config.free_gpu_memory_fraction",
)
_CHANGES = {
    "kv_cache_config.max_tokens": "room for requests",
    "kv_cache_config.host_cache_size": "room for requests",
    "kv_cache_config.enable_block_reuse": "time",
    **dict.fromkeys(
        (
            *("cuda_graph_config", "moe_config", "disable_overlap_scheduler", "enable_autotuner"),
            *("attn_backend", "attention_dp_config", "allreduce_strategy", "moe_backend"),
            *("torch_compile_config", "sparse_attention_config", "enable_min_latency"),
            *("nvfp4_gemm_config", "enable_lm_head_tp_in_adp", "scheduler_config"),
        ),
        "time",
    ),
    "lora_config": "more memory",
}
_OTHER_LAYOUT = ("context_parallel_size", "moe_cluster_parallel_size", "cp_config")
_BETWEEN_SERVERS = "cache_transceiver_config"


# what launchers call the section of a file that is the engine's own, and the flags that they know beside it
_SECTIONS = ("llm_api_args", "extra_llm_api_args", "extra_llm_api_options")
_FLAGS = {
    "tp_size": "tensor_parallel_size",
    "pp_size": "pipeline_parallel_size",
    "ep_size": "moe_expert_parallel_size",
    "cp_size": "context_parallel_size",
    "cluster_size": "moe_cluster_parallel_size",
}


def split(table: Settings) -> tuple[Settings, Settings]:
    """A configuration file's keys are no flags: they stand apart, a launcher's section among them."""
    found: Settings = {}
    for key, value in table.items():
        inner = value if key in _SECTIONS and isinstance(value, dict) else {key: value}
        for name, said in inner.items():
            own = _FLAGS.get(name, name)
            if found.get(own, said) != said:
                raise contradiction(name, said, f"the file also says {found[own]}", found[own])
            found[own] = said
    return {"yaml": found}, {}


def _known(key: str) -> bool:
    """Whether a key is of the engine's file; raise for one that resembles a key of the layout."""
    chosen = target("trtllm")
    if key in chosen.file_keys:
        return True
    own = [name for name in (*_READ, *_OTHER_LAYOUT) if "." not in name]
    nearest = next(iter(difflib.get_close_matches(key, own, n=1, cutoff=ALIKE)), None)
    if nearest is not None:
        raise InputError(
            f"{shorten(key)}: no key of TensorRT-LLM's file is called so",
            field=key,
            value=key,
            legal=nearest,
            nearest=nearest,
        )
    return False


def unpriced(s: Settings) -> tuple[list[tuple[str, str]], list[str]]:
    """(what the file says that is not priced and what it changes, keys of no matter)."""
    left: list[tuple[str, str]] = []
    ignored: list[str] = []
    for key, value in s.get("yaml", {}).items():
        if key in _OTHER_LAYOUT and value not in (None, 1):
            raise contradiction(key, value, "is not followed", "a file without it")
        if key == _BETWEEN_SERVERS and value is not None:
            why = "prompts and answers may be on GPUs of their own"
            raise contradiction(key, str(value), why, "a file without it")
        inner = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        for name, said in inner.items() if key == "kv_cache_config" else [(key, value)]:
            if name in _READ or said is None:
                continue
            if name in _CHANGES:
                left.append((name, _CHANGES[name]))
            elif name != key or _known(key):
                ignored.append(name)
            else:
                left.append((name, "time or memory, which is not known"))
    return left, ignored


def read(s: Settings, world: int | None) -> Read:
    del world  # its own degrees say
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
    found |= _rules(s, yaml, cache if isinstance(cache, dict) else {})
    said = cache.get("dtype") if isinstance(cache, dict) else None
    quant = yaml.get("quant_config")
    quant = quant if isinstance(quant, dict) else {}
    said = said if said not in (None, "auto") else quant.get("kv_cache_quant_algo", said)
    said_formats = {
        "kv_dtype": said if said is not None else s.get("kv_dtype"),
        "quantization": quant.get("quant_algo"),
    }
    found |= formats.format_fields(said_formats)
    s = s | {own: yaml[key] for key, own in _LIMITS.items() if isinstance(yaml.get(key), int)}
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
        method = str(speculation.get("decoding_type", "draft model"))
        tokens = next((speculation[k] for k in keys if isinstance(speculation.get(k), int)), None)
        if tokens is None and method != "MTP":  # whose own default is one layer
            raise InputError(
                "speculative_config: no number of drafted tokens was read",
                field="speculative_config",
                value=method,
                legal="max_draft_len: 1 to 63",
            )
        more, said = drafts(method, tokens or 1)
        found |= more
        notes.append(said)
    return found, notes


def _rules(s: Settings, yaml: Settings, cache: Settings) -> dict[str, Any]:
    """``cuda_graph_config: null`` is none of them; the share of memory is of what weights leave."""
    found: dict[str, Any] = {}
    if "cuda_graph_config" in yaml and yaml["cuda_graph_config"] is None:
        found["eager"] = True
    for field, table, key, flag in (
        ("chunked_prefill", yaml, "enable_chunked_prefill", "chunked"),
        ("memory_share", cache, "free_gpu_memory_fraction", "cache_share"),
    ):
        own, value = s.get(flag), table.get(key)
        if value is not None:
            share = flag == "cache_share"
            value = fraction(value, key, low=0.05, high=1.0) if share else yes(value)
        if own is not None and value is not None and own != value:
            raise contradiction(f"--{key}", own, f"the file says {value}", value)
        found[field] = own if value is None else value
    return {name: value for name, value in found.items() if value is not None}


def write(job: Job, chosen: Target) -> Written:
    s = _settings(job)
    files = {}
    if s["yaml"]:
        files["config.yaml"] = _yaml(s["yaml"])
        s["config"] = "config.yaml"
    gpus = job.tp * job.pp * (job.dp if s["yaml"].get("enable_attention_dp") else 1)
    if gpus > job.gpus_per_node:
        s["gpus_per_node"] = gpus // -(-gpus // job.gpus_per_node)
    return flag_lines(f"trtllm-serve {shlex.quote(job.model)}", s, chosen), files


def _yaml(table: dict[str, Any], indent: int = 0) -> str:
    rows = []
    for key, value in table.items():
        if isinstance(value, dict):
            rows += [" " * indent + f"{key}:", _yaml(value, indent + 2)]
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            shown = "null" if shown is None else shown
            rows.append(" " * indent + f"{key}: {shown}")
    return "\n".join(rows)
