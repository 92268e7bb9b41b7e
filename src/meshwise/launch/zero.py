"""What DeepSpeed's and accelerate's settings mean: from a job, and a job's fields from them."""

from __future__ import annotations

from typing import Any

from meshwise.launch.job import Job
from meshwise.launch.serving import Read, Settings, contradiction
from meshwise.launch.training import replicas, yes

# -- DeepSpeed ---------------------------------------------------------------------------------------


def deepspeed_settings(job: Job) -> Settings:
    """The configuration's sections; DP is what tp leaves of the world."""
    s: Settings = {"stage": int(job.shard[-1]) if job.shard != "none" else 0}
    if job.tp > 1:
        s["tp"] = job.tp
        if job.overlap == "decomposed":
            s["tp_overlap"] = True
    if job.ep > 1:
        s |= {"expert_parallel": True, "ep": job.ep}
    if job.global_batch is not None:
        micro = job.micro_batch or 1
        s |= {
            "global_batch": job.global_batch,
            "micro_batch": micro,
            "accumulation": job.global_batch // (job.dp * micro),
        }
    if job.dtype in ("bf16", "fp16"):
        s[job.dtype] = True
    return s


def deepspeed_fields(s: Settings, world: int | None) -> Read:
    tp, stage = s.get("tp", 1) or 1, s.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise contradiction("zero_optimization.stage", stage, "is no stage", (0, 1, 2, 3))
    ep = s.get("ep", 1) if yes(s.get("expert_parallel", "false")) else 1
    if ep > 1 and tp > 1:
        raise contradiction(
            "expert_parallel.autoep_size",
            ep,
            "AutoEP does not combine with AutoTP",
            "one of the two",
        )
    micro, steps, whole = s.get("micro_batch"), s.get("accumulation"), s.get("global_batch")
    if world is None and micro and steps and whole and whole % (micro * steps) == 0:
        world = tp * whole // (micro * steps)
    dp = replicas(world, tp, "tensor_parallel.autotp_size")
    if micro is not None and whole is not None:
        if whole % (micro * dp):
            raise contradiction(
                "train_batch_size",
                whole,
                f"no multiple of microbatch {micro} · dp {dp}",
                f"multiples of {micro * dp}",
            )
        if steps is not None and micro * steps * dp != whole:
            raise contradiction(
                "gradient_accumulation_steps",
                steps,
                f"microbatch {micro} · steps · dp {dp} is not train_batch_size {whole}",
                whole // (micro * dp),
            )
    elif micro is not None and steps is not None:
        whole = micro * steps * dp
    found: dict[str, Any] = {"tp": tp, "dp": dp, "ep": ep, "etp": 1 if ep > 1 else tp}
    found["shard"] = "none" if stage == 0 else f"zero{stage}"
    if tp > 1 and yes(s.get("tp_overlap", "false")):
        found["overlap"] = "decomposed"
    if micro is not None:
        found["micro_batch"] = micro
    if whole is not None:
        found["global_batch"] = whole
    for name in ("bf16", "fp16"):
        if yes(s.get(name, "false")):
            found["dtype"] = name
    return found, []


# -- Hugging Face accelerate ---------------------------------------------------------------------------


def accelerate_settings(job: Job) -> Settings:
    """FSDP2 with its parallelism config; pipelines by the Megatron-LM plugin; plain DDP where nothing
    but the data is parallel."""
    s: Settings = {"processes": job.gpus, "machines": job.nodes}
    if job.pp > 1:
        s |= {"megatron": True, "megatron_tp": job.tp, "megatron_pp": job.pp}
        s["megatron_sp"] = str(job.sequence_parallel).lower()
        if job.micro_batch and job.global_batch:
            s["megatron_microbatches"] = job.global_batch // (job.dp * job.micro_batch)
    elif job.tp * job.cp == 1 and job.shard == "none":
        if job.gpus > 1:
            s["multi_gpu"] = True
    else:
        s |= {"fsdp": True, "fsdp_version": 2, "parallelism": "true", "tp": job.tp, "cp": job.cp}
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


def accelerate_fields(s: Settings, world: int | None) -> Read:
    world = s.get("processes", world)
    found: dict[str, Any] = {}
    if s.get("megatron"):
        if s.get("fsdp"):
            raise contradiction("--use_megatron_lm", "", "contradicts --use_fsdp", "one of the two")
        tp, pp = s.get("megatron_tp", 1), s.get("megatron_pp", 1)
        dp = replicas(world, tp * pp, "--num_processes")
        found = {"tp": tp, "pp": pp, "dp": dp}
        found["sequence_parallel"] = tp > 1 and yes(s.get("megatron_sp", "false"))
        found["schedule"] = "1f1b"
    elif s.get("fsdp") or s.get("parallelism") is not None:
        tp, cp = s.get("tp", 1), s.get("cp", 1)
        replicate = s.get("dp_replicate", 1)
        shard = s.get("dp_shard")
        if shard is None:
            shard = replicas(world, tp * cp * replicate, "--num_processes")
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
        keeps = str(s.get("resharding", "")).lower() == "false"
        sharded = s.get("fsdp") and dp > 1
        found = {"tp": tp, "cp": cp, "dp": dp}
        found["shard"] = ("zero2" if keeps else "zero3") if sharded else "none"
        if yes(s.get("checkpointing", "false")):
            found["recompute"] = "full"
    else:
        found = {"dp": replicas(world, 1, "--num_processes")}
    found["etp"] = found.get("tp", 1)
    if s.get("precision") in ("bf16", "fp16", "fp8"):
        found["dtype"] = s["precision"]
    return found, []
