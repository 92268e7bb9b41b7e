"""What accelerate's settings mean: from a job, and a job's fields from them."""

from __future__ import annotations

from typing import Any

from meshwise.errors import InputError
from meshwise.launch.command_text import Written, flag_lines
from meshwise.launch.files import deepspeed_json
from meshwise.launch.files.configuration import leaves, opened
from meshwise.launch.find import Launch
from meshwise.launch.flags import LAYOUT_SETTINGS
from meshwise.launch.job import Job
from meshwise.launch.settings.settings import (
    Read,
    Settings,
    contradiction,
    one_precision,
    replicas_left,
    yes,
)
from meshwise.launch.shell.commands import Script
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


# data parallelism alone, on whatever device (utils/dataclasses.py, DistributedType)
_DEVICES = ("GPU", "NPU", "MLU", "SDAA", "MUSA", "XPU", "HPU", "NEURON")
_KINDS: dict[str, Settings] = {
    "FSDP": {"fsdp": True},
    **{f"MULTI_{device}": {"multi_gpu": True} for device in _DEVICES},
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
    kind = str(table.get("distributed_type", "NO")).upper()
    own = {k: v for k, v in table.items() if k != "deepspeed_config" or kind == "DEEPSPEED"}
    rest = leaves(own)
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


def with_files(s: Settings, text: str, launch: Launch, script: Script, chosen: Target) -> Settings:
    """DeepSpeed's own file under what the command says. Without a word of parallelism the file of
    ``accelerate config`` decides (commands/launch.py, ``_validate_launch_command``)."""
    s = _with_zero_file(s, script.files)
    if (s.get("processes") or 1) > 1 and not LAYOUT_SETTINGS & s.keys():
        raise InputError(
            "--config_file: the command names no file and no kind of parallelism: that of `accelerate "
            "config` on its machine may hold the layout",
            field="--config_file",
            legal="--config_file FILE, or --multi_gpu where there is none",
        )
    return s


def _with_zero_file(s: Settings, files: dict[str, str]) -> Settings:
    path = s.get("zero_file")
    if path is None or str(path).lower() in ("true", "none"):
        return _rest(s)
    text = opened(str(path), "--deepspeed_config_file", files)
    read = deepspeed_json.file_settings(text)
    found: Settings = {"deepspeed": True, "zero_stage": read.get("stage", 0)}
    found["zero_unpriced"] = deepspeed_json.unpriced_of(text)
    for name in ("micro_batch", "accumulation"):
        if read.get(name, s.get(name)) != s.get(name, read.get(name)):
            raise contradiction(
                _SIZES[name], s[name], f"the DeepSpeed configuration says {read[name]}", read[name]
            )
    found |= {k: read[k] for k in ("micro_batch", "accumulation", "offload_optimizer") if k in read}
    if read.get("tp", 1) > 1 or yes(read.get("expert_parallel", "false")):
        raise contradiction(
            "--deepspeed_config_file", path, "splits weights too", "DeepSpeed's own command"
        )
    narrow = [name for name in ("bf16", "fp16") if yes(read.get(name, "false"))]
    return found | ({"precision": narrow[0]} if narrow else {}) | _rest(s)


# options of the script that the JSON may say too
_SIZES = {
    "micro_batch": "--per_device_train_batch_size",
    "accumulation": "--gradient_accumulation_steps",
}


def unpriced(s: Settings) -> tuple[list[tuple[str, str]], list[str]]:
    """Keys of DeepSpeed's own file that change time or memory and are not priced."""
    return list(s.get("zero_unpriced") or ()), []


def _rest(s: Settings) -> Settings:
    return {k: v for k, v in s.items() if k != "zero_file"}


def read(s: Settings, world: int | None) -> Read:
    s = _with_zero_file(s, {})
    world = s.get("processes", world)
    found: dict[str, Any] = {}
    notes: list[str] = []
    if s.get("deepspeed"):
        stage = s.get("zero_stage", 2)  # accelerate's default
        if stage not in (0, 1, 2, 3):
            raise contradiction("--zero_stage", stage, "is no stage", (0, 1, 2, 3))
        found = {"dp": replicas_left(world, 1, "--num_processes")}
        found["shard"] = f"zero{stage}" if stage else "none"
        if str(s.get("offload_optimizer") or "none").lower() in ("cpu", "nvme"):
            found["offload_optimizer"] = True
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
        if sharded and replicate > 1:
            notes.append(f"hybrid sharding over {shard} of {dp}: priced as over all")
        found = {"tp": tp, "cp": cp, "dp": dp}
        found["shard"] = _fsdp_stage(s) if sharded else "none"
        if yes(s.get("checkpointing", "false")):
            found["recompute"] = "full"
    else:
        found = {"dp": replicas_left(world, 1, "--num_processes")}
    if s.get("gradient_checkpointing"):
        found["recompute"] = "full"
    if s.get("seq") is not None:
        found["seq"] = s["seq"]
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
