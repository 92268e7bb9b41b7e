"""What accelerate's settings mean: from a job, and a job's fields from them."""

from __future__ import annotations

from typing import Any

from meshwise.launch.command_text import Written, flag_lines
from meshwise.launch.files.configuration import leaves
from meshwise.launch.job import Job
from meshwise.launch.settings.settings import (
    Read,
    Settings,
    contradiction,
    one_precision,
    replicas_left,
    yes,
)
from meshwise.launch.table import Target


def _settings(job: Job) -> Settings:
    """FSDP2 with its parallelism config; pipelines by the Megatron-LM plugin; plain DDP where nothing
    but the data is parallel."""
    s: Settings = {"processes": job.gpus, "machines": job.nodes}
    if job.pp > 1:
        s |= {"megatron": True, "megatron_tp": job.tp, "megatron_pp": job.pp}
        s |= {"megatron_cp": job.cp}
        if job.ep > 1:
            s |= {"megatron_ep": job.ep, "megatron_etp": job.etp}
        if job.recompute == "full":
            s["granularity"] = "full"
        s["megatron_sp"] = str(job.sequence_parallel).lower()
        if job.recompute == "selective":
            s["megatron_recompute"] = "true"
        if job.shard == "zero1":
            s["megatron_optimizer"] = "true"
        if job.micro_batch and job.global_batch:
            s["megatron_microbatches"] = job.global_batch // (job.dp * job.micro_batch)
    elif job.tp * job.cp == 1 and job.shard == "none":
        if job.gpus > 1:
            s["multi_gpu"] = True
    else:
        s |= {"fsdp": True, "fsdp_version": 2, "parallelism": True, "tp": job.tp, "cp": job.cp}
        s |= {"dp_shard": job.dp, "dp_replicate": 1}
        if job.shard == "zero2":
            s["resharding"] = "false"
        if job.recompute == "full":
            s["checkpointing"] = "true"
    if job.pp == 1 and job.micro_batch and job.global_batch:
        s["accumulation"] = job.global_batch // (job.dp * job.micro_batch)
    if job.dtype in ("bf16", "fp16", "fp8"):
        s["precision"] = job.dtype
    return s


_KINDS = {
    "FSDP": {"fsdp": True},
    "MULTI_GPU": {"multi_gpu": True},
    "MEGATRON_LM": {"megatron": True},
    "DEEPSPEED": {"deepspeed": True},
    "NO": {"multi_gpu": True},
}


def _kind(table: dict[str, Any]) -> Settings:
    """What ``distributed_type`` of a configuration file turns on."""
    kind = str(table.get("distributed_type", "NO")).upper()
    if kind == "NO" and ("fsdp_config" in table or "parallelism_config" in table):
        return {"fsdp": "fsdp_config" in table}
    if kind not in _KINDS:
        raise contradiction("distributed_type", kind, "is not followed", tuple(_KINDS))
    return dict(_KINDS[kind])


def split(table: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """What ``distributed_type`` turns on, and all other keys by their own names."""
    rest = leaves(table)
    return _kind(table), {
        k: v for k, v in rest.items() if k not in ("fsdp_config", "distributed_type")
    }


# FSDP's strategies by name and by the number that accelerate also takes
_STRATEGIES = {
    "full_shard": "zero3",
    "shard_grad_op": "zero2",
    "no_shard": "none",
    "hybrid_shard": "zero3",
    "hybrid_shard_zero2": "zero2",
    "1": "zero3",
    "2": "zero2",
    "3": "none",
    "4": "zero3",
    "5": "zero2",
}


def _fsdp_stage(s: Settings) -> str:
    """FSDP1 by its sharding strategy, FSDP2 by whether it frees weights after forward."""
    said = str(s.get("resharding", s.get("sharding", "true"))).lower()
    if said in ("true", "false"):
        return "zero2" if said == "false" else "zero3"
    if said not in _STRATEGIES:
        raise contradiction("fsdp_sharding_strategy", said, "is not known", tuple(_STRATEGIES))
    return _STRATEGIES[said]


def _recomputed(s: Settings) -> str:
    said = str(s.get("granularity", "")).lower()
    if said not in ("", "full", "selective"):
        raise contradiction(
            "--megatron_lm_recompute_granularity", said, "is not known", ("full", "selective")
        )
    return said or ("selective" if yes(s.get("megatron_recompute", "false")) else "none")


def read(s: Settings, world: int | None) -> Read:
    world = s.get("processes", world)
    found: dict[str, Any] = {}
    notes: list[str] = []
    if s.get("deepspeed"):
        stage = s.get("zero_stage", 2)  # accelerate's default
        if stage not in (0, 1, 2, 3):
            raise contradiction("--zero_stage", stage, "is no stage", (0, 1, 2, 3))
        found = {"dp": replicas_left(world, 1, "--num_processes")}
        found["shard"] = f"zero{stage}" if stage else "none"
    elif s.get("megatron"):
        if s.get("fsdp"):
            raise contradiction("--use_megatron_lm", "", "contradicts --use_fsdp", "one of the two")
        tp, pp = s.get("megatron_tp", 1), s.get("megatron_pp", 1)
        cp = s.get("megatron_cp", 1)
        dp = replicas_left(world, tp * pp * cp, "--num_processes")
        found = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "ep": s.get("megatron_ep", 1)}
        found["sequence_parallel"] = tp > 1 and yes(s.get("megatron_sp", "false"))
        found["schedule"] = "1f1b"
        found["shard"] = "zero1" if yes(s.get("megatron_optimizer", "false")) else "none"
        found["recompute"] = _recomputed(s)
        if "megatron_cp" not in s:
            notes.append(
                "the command names no context parallelism: 1 is priced; newer releases of accelerate "
                "take 2 (--megatron_lm_context_parallel_size)"
            )
    elif s.get("fsdp") or s.get("parallelism"):
        tp, cp = s.get("tp", 1), s.get("cp", 1)
        replicate = s.get("dp_replicate", 1)
        shard = s.get("dp_shard")
        if shard is None:
            shard = replicas_left(world, tp * cp * replicate, "--num_processes")
        if replicate > 1 and shard == 1:
            raise contradiction(
                "--parallelism_config_dp_replicate_size",
                replicate,
                "with a dp_shard_size of 1 accelerate refuses it",
                "plain DDP (no parallelism config), or dp_shard_size above 1",
            )
        if world is not None and tp * cp * replicate * shard != world:
            raise contradiction(
                "--num_processes",
                world,
                f"tp {tp} · cp {cp} · dp_replicate {replicate} · dp_shard {shard} = {tp * cp * replicate * shard}",
                tp * cp * replicate * shard,
            )
        dp = replicate * shard
        sharded = s.get("fsdp") and dp > 1
        found = {"tp": tp, "cp": cp, "dp": dp}
        found["shard"] = _fsdp_stage(s) if sharded else "none"
        if yes(s.get("checkpointing", "false")):
            found["recompute"] = "full"
    else:
        found = {"dp": replicas_left(world, 1, "--num_processes")}
    whole = 1 if found.get("ep", 1) > 1 else found.get("tp", 1)
    found["etp"] = s.get("megatron_etp", whole)
    found["loss_chunks"] = 1
    if "hybrid" in str(s.get("sharding", "")).lower() or str(s.get("sharding")) in ("4", "5"):
        notes.append("hybrid sharding inside a node is priced as over all GPUs")
    said = [name for name in ("bf16", "fp16") if s.get(f"trainer_{name}")]
    if s.get("precision") in ("bf16", "fp16", "fp8"):
        said.append(s["precision"])
    dtype = one_precision(said)
    if dtype is not None:
        found["dtype"] = dtype
    if s.get("micro_batch") is not None:
        found["micro_batch"] = s["micro_batch"]
        # the Megatron plugin counts its steps by itself (accelerate, MegatronLMPlugin)
        name = "megatron_microbatches" if s.get("megatron") else "accumulation"
        found["global_batch"] = s["micro_batch"] * found["dp"] * s.get(name, 1)
    return found, notes


def write(job: Job, chosen: Target) -> Written:
    s = _settings(job)
    more: tuple[str, ...] = ()
    if job.nodes > 1:
        more = (
            "--machine_rank $NODE_RANK --main_process_ip $MASTER_ADDR --main_process_port 29500",
        )
    return flag_lines("accelerate launch", s, chosen, (*more, "$TRAIN_SCRIPT")), {}
