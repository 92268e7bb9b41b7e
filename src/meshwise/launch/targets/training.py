"""What training frameworks' flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

from typing import Any

from meshwise.errors import InputError, MeshwiseError
from meshwise.launch.job import Job
from meshwise.launch.settings import Read, Settings, contradiction
from meshwise.launch.targets import stages, switches
from meshwise.models.load import load_model
from meshwise.models.names import named_model


def replicas(world: int | None, rest: int, field: str) -> int:
    """Data-parallel degree: what the other degrees leave of the world."""
    if world is None:
        raise InputError(
            "the command does not say how many GPUs it runs on",
            field="gpus",
            legal="torchrun --nnodes … --nproc-per-node …, or `gpus=N`",
        )
    if world % rest:
        raise contradiction(
            field,
            world,
            f"{world} GPUs are no multiple of the {rest} of one replica",
            f"multiples of {rest}",
        )
    return world // rest


def yes(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "on")


def _batches(s: Settings) -> dict[str, Any]:
    names = ("micro_batch", "global_batch", "seq")
    return {name: s[name] for name in names if s.get(name) is not None}


# -- Megatron-LM and Megatron-Bridge ------------------------------------------------------------------

_STRATEGIES = {"zero1": "optim", "zero2": "optim_grads", "zero3": "optim_grads_params"}


def _recomputation(job: Job) -> Settings:
    if job.recompute == "full":
        return {"granularity": "full", "recompute_method": "uniform", "recompute_layers": 1}
    return {"granularity": "selective"} if job.recompute == "selective" else {}


def _layers(job: Job) -> int | None:
    """Layers of the job's model, where its name is known."""
    try:
        return load_model(job.model).layers if job.model and named_model(job.model) else None
    except MeshwiseError:
        return None


def _degrees(job: Job) -> Settings:
    s: Settings = {"tp": job.tp, "pp": job.pp, **stages.settings(_layers(job), job.pp)}
    if job.vp > 1:
        s["vp"] = job.vp
    if job.cp > 1:
        s["cp"] = job.cp
    if job.has_experts_grid:
        s["ep"], s["etp"] = job.ep, job.etp
    return s


def megatron_settings(job: Job) -> Settings:
    """DP is what tp · pp · cp leave of the world; experts have a grid of their own."""
    s = _degrees(job) | _recomputation(job)
    narrow = job.dtype in ("bf16", "fp8")
    for name, on in (
        ("sequence_parallel", job.sequence_parallel),
        ("tp_overlap", job.overlap == "decomposed" and job.sequence_parallel and job.tp > 1),
        ("pp_first", job.placement == "tp-cp-pp-dp"),
        ("bf16", narrow),
        ("fp16", job.dtype == "fp16"),
        ("grad_bf16", narrow and job.grad_dtype == "bf16"),
        ("grad_fp32", job.dtype == "fp16" and job.grad_dtype == "fp32"),
    ):
        if on:
            s[name] = True
    if job.dtype == "fp8":
        s["fp8"] = "hybrid"
    if job.attention != "flash":
        s["attention"] = job.attention
    if job.shard == "zero1":
        s |= {"distributed_optimizer": True, "grad_overlap": True, "param_overlap": True}
    elif job.shard in _STRATEGIES:
        s |= {"distributed_optimizer": True, "fsdp": True, "sharding": _STRATEGIES[job.shard]}
    elif job.dp * job.cp > 1:
        s["grad_overlap"] = True
    return s | switches.settings(job) | _batches(_of(job))


def _of(job: Job) -> Settings:
    return {name: getattr(job, name) for name in ("micro_batch", "global_batch", "seq")}


def megatron_fields(s: Settings, world: int | None) -> Read:
    tp, pp, cp = s.get("tp", 1), s.get("pp", 1), s.get("cp", 1)
    ep, etp = s.get("ep", 1), s.get("etp")
    dp = replicas(world, tp * pp * cp, "--tensor-model-parallel-size")
    etp = tp if etp is None else etp
    if (tp * cp * dp) % (ep * etp):
        inner = tp * cp * dp
        legal = [d for d in range(1, inner + 1) if inner % (d * etp) == 0]
        raise contradiction(
            "--expert-model-parallel-size",
            ep,
            f"· expert TP {etp} does not divide the {inner} ranks of a pipeline stage",
            legal[:20],
        )
    shard = "zero1" if s.get("distributed_optimizer") else "none"
    if s.get("stage"):
        shard = f"zero{s['stage']}"
    if s.get("fsdp") or s.get("fsdp2"):
        strategy = s.get("sharding", "optim_grads_params")
        known = {v: k for k, v in _STRATEGIES.items()} | {"no_shard": "none"}
        if strategy not in known:
            raise contradiction(
                "--data-parallel-sharding-strategy", strategy, "is not known", list(known)
            )
        shard = known[strategy]
    notes = stages.remark(s, pp)
    granularity = s.get("granularity")
    if granularity not in (None, "full", "selective"):
        raise contradiction(
            "--recompute-granularity", granularity, "is not known", ("full", "selective")
        )
    if s.get("recompute_activations"):
        granularity = granularity or "selective"
    if granularity == "full" and s.get("recompute_method") == "block":
        notes.append("--recompute-method block recomputes some layers only: priced as all of them")
    found = {
        "tp": tp,
        "pp": pp,
        "vp": _virtual(s, pp),
        "cp": cp,
        "dp": dp,
        "ep": ep,
        "etp": etp,
        "sequence_parallel": bool(s.get("sequence_parallel")),
        "overlap": "decomposed" if s.get("tp_overlap") else "none",
        "recompute": granularity or "none",
        "shard": shard,
        "placement": "tp-cp-pp-dp" if s.get("pp_first") else "tp-cp-dp-pp",
        **_batches(s),
    }
    if s.get("sequence_parallel") and tp == 1:
        notes.append("--sequence-parallel does nothing at TP=1")
        found["sequence_parallel"] = False
    if s.get("tp_overlap") and not found["sequence_parallel"]:
        notes.append("--tp-comm-overlap needs --sequence-parallel: priced without the overlap")
        found["overlap"] = "none"
    more, said = switches.fields(s, ep)
    found |= more
    notes += said
    if s.get("attention") in ("unfused", "local"):
        found["attention"] = "unfused"
    if yes(s.get("bf16")) and yes(s.get("fp16")):
        raise contradiction("--fp16", "", "contradicts --bf16", "one of the two")
    if s.get("fp8"):
        found["dtype"] = "fp8"
    elif yes(s.get("bf16")) or yes(s.get("fp16")):
        found["dtype"] = "bf16" if yes(s.get("bf16")) else "fp16"
    return found, notes


def _virtual(s: Settings, pp: int) -> int:
    if s.get("vp"):
        return int(s["vp"])
    each = s.get("layers_per_stage")
    if not each:
        return 1
    layers = s.get("layers")
    if layers is None:
        raise InputError(
            "--num-layers-per-virtual-pipeline-stage: the command does not say --num-layers",
            field="--num-layers-per-virtual-pipeline-stage",
            value=each,
            legal="with --num-layers",
        )
    layers += int(bool(s.get("embedding_split"))) + int(bool(s.get("loss_split")))
    if layers % (pp * each):
        legal = [d for d in range(1, layers // pp + 1) if layers % (pp * d) == 0]
        raise contradiction(
            "--num-layers-per-virtual-pipeline-stage",
            each,
            f"does not cut {layers} layers over {pp} stages",
            legal,
        )
    return int(layers // (pp * each))


def bridge_settings(job: Job) -> Settings:
    """The same model as Megatron-LM's, as overrides of a recipe."""
    s = _degrees(job) | _recomputation(job)
    s["sequence_parallel"] = str(job.sequence_parallel).lower()
    if job.shard == "zero1":
        s["distributed_optimizer"] = "true"
    elif job.shard == "none":
        s["distributed_optimizer"] = "false"
    if job.overlap == "decomposed" and job.sequence_parallel:
        s["tp_overlap"] = "true"
    if job.dtype in _MIXED:
        s["precision"] = _MIXED[job.dtype]
    if job.grad_dtype is not None:
        s["grad_fp32"] = str(job.grad_dtype == "fp32").lower()
    s |= {k: str(v).lower() if v is True else v for k, v in switches.settings(job).items()}
    s = {k: v for k, v in s.items() if k not in _OF_A_RECIPE}
    return s | {k: v for k, v in _of(job).items() if v is not None}


# torch's own objects in a recipe: no override says them
_OF_A_RECIPE = ("precise", "moment", "second_moment")
# names of Megatron-Bridge's mixed-precision recipes (training/mixed_precision.py)
_MIXED = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_delayed_scaling_mixed",
}


def bridge_fields(s: Settings, world: int | None) -> Read:
    flags, said = switches.of_a_recipe(s)
    mixed = str(s.get("precision", "")).lower()
    if "fp8" in mixed or "mxfp8" in mixed:
        flags["fp8"] = mixed
    elif "bf16" in mixed or "fp16" in mixed:
        flags["bf16" if "bf16" in mixed else "fp16"] = True
    told = (
        "sequence_parallel",
        "distributed_optimizer",
        "tp_overlap",
        "overlap_experts",
        "precise",
        *stages.SPLITS[:2],
    )
    for name in told:
        flags[name] = yes(s.get(name, "false"))
    for name in ("vp", "etp", *stages.SPLITS[2:]):
        if str(flags.get(name)).lower() in ("none", "null"):
            flags.pop(name, None)
    found, notes = megatron_fields(flags, world)
    notes = [*said, *notes]
    if s.get("grad_fp32") is not None:
        found["grad_dtype"] = "fp32" if yes(s["grad_fp32"]) else "bf16"
    return found, notes
