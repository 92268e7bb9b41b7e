"""What DeepSpeed's configuration means: from a job, and a job's fields from it."""

from __future__ import annotations

import json
from typing import Any

from meshwise import dtypes
from meshwise.launch.command_text import Written, torchrun
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
from meshwise.strict_tables import one_of


def _settings(job: Job) -> Settings:
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
    if job.offload_optimizer:
        s["offload_optimizer"] = "cpu"
    if job.dtype in ("bf16", "fp16"):
        s[job.dtype] = True
    if job.grad_dtype is not None:
        s["grad_dtype"] = job.grad_dtype
    return s


def read(s: Settings, world: int | None) -> Read:
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
    dp = replicas_left(world, tp, "tensor_parallel.autotp_size")
    micro, whole = _bound(micro, steps, whole, dp)
    found: dict[str, Any] = {"tp": tp, "dp": dp, "ep": ep, "etp": 1 if ep > 1 else tp}
    found["shard"] = "none" if stage == 0 else f"zero{stage}"
    if tp > 1 and yes(s.get("tp_overlap", "false")):
        found["overlap"] = "decomposed"
    if micro is not None:
        found["micro_batch"] = micro
    if whole is not None:
        found["global_batch"] = whole
    dtype = one_precision([name for name in ("bf16", "fp16") if yes(s.get(name, "false"))])
    if dtype is not None:
        found["dtype"] = dtype
    if s.get("grad_dtype") is not None:
        found["grad_dtype"] = one_of(
            s["grad_dtype"], "data_types.grad_accum_dtype", dtypes.GRADIENT
        )
    notes: list[str] = []
    if s.get("optimizer") is not None:
        found |= _optimizer(str(s["optimizer"]), notes)
    place = str(s.get("offload_optimizer") or "none").lower()
    if place == "nvme":
        notes.append("offload_optimizer to NVMe is priced as to the host's memory")
    if place in ("cpu", "nvme"):
        found["offload_optimizer"] = True
    return found, notes


_OPTIMIZERS = {
    **dict.fromkeys(("adam", "adamw", "onebitadam", "zerooneadam", "mupadam", "mupadamw"), "adam"),
    **dict.fromkeys(("lion",), "lion"),
    **dict.fromkeys(("muon",), "muon"),
    **dict.fromkeys(("sgd", "mupsgd"), "sgd"),
    **dict.fromkeys(("lamb", "onebitlamb"), "adam"),  # two moments too
}


def _optimizer(said: str, notes: list[str]) -> dict[str, Any]:
    """The optimizer by what it keeps per weight; Adam where none is said."""
    word = _OPTIMIZERS.get(said.lower().replace("_", ""))
    if word is None:
        notes.append(f"the optimizer {said} is not priced: Adam is")
    return {"optimizer": word} if word not in (None, "adam") else {}


def _bound(
    micro: int | None, steps: int | None, whole: int | None, dp: int
) -> tuple[int | None, int | None]:
    """train_batch_size = train_micro_batch_size_per_gpu · gradient_accumulation_steps · dp: what is
    left out follows from the others, steps of 1 where two are (DeepSpeed,
    ``_set_batch_related_parameters``)."""
    if whole is None:
        return micro, micro * (steps or 1) * dp if micro is not None else None
    if micro is None:
        rest = (steps or 1) * dp
        if whole % rest:
            raise contradiction(
                "train_batch_size",
                whole,
                f"no multiple of {steps or 1} steps · dp {dp}",
                f"multiples of {rest}",
            )
        return whole // rest, whole
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
    return micro, whole


def claims(before: list[str], after: list[str], says: set[str]) -> int:
    """Its launcher, or the option of its trainers."""
    launcher = any(w.rpartition("/")[2] == "deepspeed" for w in before)
    return 2 * int(launcher or any(w.startswith("--deepspeed") for w in after))


def write(job: Job, chosen: Target) -> Written:
    table: dict[str, Any] = {}
    for name, value in _settings(job).items():
        *sections, key = chosen.flags[name].spellings[0].split(".")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    # torchrun on every node where there are several: the deepspeed launcher reaches them by ssh
    script = "$TRAIN_SCRIPT --deepspeed_config ds_config.json"
    command = (
        f"deepspeed --num_gpus {job.gpus} {script}" if job.nodes == 1 else torchrun(job, script)
    )
    return command, {"ds_config.json": json.dumps(table, indent=2)}
