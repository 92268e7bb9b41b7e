"""What Megatron-LM's flags mean: settings from a job, and a job's fields from settings."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.command_text import Written, flag_lines, torchrun
from meshwise.launch.files import deepspeed_json, yaml_text
from meshwise.launch.files.configuration import as_words, leaves, opened
from meshwise.launch.find import Launch
from meshwise.launch.flags import LAYOUT_SETTINGS, read_words
from meshwise.launch.job import Job
from meshwise.launch.parsed import NoLaunch
from meshwise.launch.settings import stages, switches
from meshwise.launch.settings.megatron_model import SHAPE
from meshwise.launch.settings.settings import (
    Read,
    Settings,
    contradiction,
    replicas_left,
    yes,
)
from meshwise.launch.shell.commands import Script
from meshwise.launch.table import Target
from meshwise.models.load import load_model
from meshwise.models.names import named_model


def _batches(s: Settings) -> dict[str, Any]:
    names = ("micro_batch", "global_batch", "seq")
    return {name: s[name] for name in names if s.get(name) is not None}


_STRATEGIES = {"zero1": "optim", "zero2": "optim_grads", "zero3": "optim_grads_params"}


def recomputation_settings(job: Job) -> Settings:
    if job.recompute == "full" and job.recompute_layers and job.recompute_layers % job.vp == 0:
        each = job.recompute_layers // job.vp  # of each model chunk
        return {"granularity": "full", "recompute_method": "block", "recompute_layers": each}
    if job.recompute == "full":
        return {"granularity": "full", "recompute_method": "uniform", "recompute_layers": 1}
    return {"granularity": "selective"} if job.recompute == "selective" else {}


def _layers(job: Job) -> int | None:
    """Layers of the job's model, where its name is known."""
    try:
        return load_model(job.model).layers if job.model and named_model(job.model) else None
    except MeshwiseError:
        return None


def degree_settings(job: Job) -> Settings:
    s: Settings = {"tp": job.tp, "pp": job.pp, **stages.split_settings(_layers(job), job.pp)}
    if job.vp > 1:
        s["vp"] = job.vp
    if job.cp > 1:
        s["cp"] = job.cp
    if job.has_experts_grid:
        s["ep"], s["etp"] = job.ep, job.etp
    return s


def _settings(job: Job) -> Settings:
    """DP is what tp · pp · cp leave of the world; experts have a grid of their own."""
    s = degree_settings(job) | recomputation_settings(job)
    narrow = job.dtype in ("bf16", "fp8")
    for name, on in (
        ("sequence_parallel", job.sequence_parallel),
        ("tp_overlap", job.overlap == "decomposed" and job.sequence_parallel and job.tp > 1),
        ("pp_first", job.placement == "tp-cp-pp-dp"),
        ("bf16", narrow),
        ("fp16", job.dtype == "fp16"),
        ("grad_bf16", narrow and job.grad_dtype == "bf16"),
        # of bf16 what it does by itself, written out: readers need not know that
        ("grad_fp32", _fp32_gradients(job, narrow)),
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
    return (
        s | optimizer_settings(job) | switches.switch_settings(job) | _batches(batch_settings(job))
    )


def _fp32_gradients(job: Job, narrow: bool) -> bool:
    return job.grad_dtype != "bf16" if narrow else job.dtype == "fp16" and job.grad_dtype == "fp32"


def batch_settings(job: Job) -> Settings:
    return {name: getattr(job, name) for name in ("micro_batch", "global_batch", "seq")}


def read(s: Settings, world: int | None) -> Read:
    tp, pp, cp = s.get("tp", 1), s.get("pp", 1), s.get("cp", 1)
    ep, etp = s.get("ep", 1), s.get("etp")
    dp = replicas_left(world, tp * pp * cp, "--tensor-model-parallel-size")
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
    if s.get("checkpoint_activations") or s.get(
        "recompute_method"
    ):  # as releases before 3.0 say it
        granularity = granularity or "full"
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
    if granularity == "full" and s.get("recompute_method") == "block":
        # of each model chunk (transformer_block.py, _checkpointed_forward)
        found["recompute_layers"] = (s.get("recompute_layers") or 1) * found["vp"]
    if found.get("global_batch") is None and found.get("micro_batch") is not None:
        found["global_batch"] = found["micro_batch"] * dp  # arguments.py, where none is said
    if s.get("sequence_parallel") and tp == 1:
        notes.append("--sequence-parallel does nothing at TP=1")
        found["sequence_parallel"] = False
    if s.get("tp_overlap") and not found["sequence_parallel"]:
        notes.append("--tp-comm-overlap needs --sequence-parallel: priced without the overlap")
        found["overlap"] = "none"
    notes += s.get("own_notes", ())
    if s.get("optimizer") is not None:
        found |= optimizer_fields(str(s["optimizer"]), notes)
    if str(s.get("offload_optimizer") or "none") not in ("none", "False"):
        found["offload_optimizer"] = True
    more, said = switches.switch_fields(s, ep)
    found |= more
    notes += said
    if s.get("attention") in ("unfused", "local"):
        found["attention"] = "unfused"
    if yes(s.get("bf16")) and yes(s.get("fp16")):
        raise contradiction("--fp16", "", "contradicts --bf16", "one of the two")
    if s.get("fp4"):
        found["dtype"] = "nvfp4"
    elif s.get("fp8"):
        recipe = str(s.get("fp8_recipe") or "delayed").lower()
        found["dtype"] = "mxfp8" if recipe == "mxfp8" else "fp8"
        if recipe not in ("mxfp8", "delayed", "tensorwise"):
            notes.append(f"the FP8 recipe {recipe} is priced as one scale per tensor")
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


def defaults(s: Settings, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Megatron-LM computes in fp32 unless ``--bf16`` or ``--fp16``; with ``--bf16`` it keeps and reduces
    fp32 gradients unless ``--grad-reduce-in-bf16``, with ``--fp16`` fp16 ones unless
    ``--accumulate-allreduce-grads-in-fp32`` (megatron/training/arguments.py, ``validate_args``)."""
    said: list[str] = []
    found: dict[str, Any] = {}
    dtype = fields.get("dtype")
    if dtype is None:
        found["dtype"] = "fp32"
        said.append(
            "fp32: neither --bf16 nor --fp16 is said, and Megatron-LM then computes in fp32; add --bf16"
        )
    if dtype == "fp8" and not s.get("bf16") and not s.get("fp16"):
        said.append("--fp8-format without --bf16: priced with 16-bit weights; add --bf16")
    narrow = s.get("grad_bf16") if dtype != "fp16" else not s.get("grad_fp32")
    found["grad_dtype"] = "bf16" if narrow and dtype is not None else "fp32"
    return found, said


def with_files(s: Settings, text: str, launch: Launch, script: Script, chosen: Target) -> Settings:
    """Megatron-DeepSpeed's stage and precision stand in a file of DeepSpeed's, the newest settings in a
    YAML (``--yaml-cfg``). Without a degree they are 1 (arguments.py), where the rest is in the command."""
    name = launch.before[-1] if launch.before else ""
    path = s.pop("yaml_cfg", None)
    if path is not None:
        table = yaml_text.mapping(opened(path, "--yaml-cfg", script.files), "--yaml-cfg")
        s = read_words(as_words(leaves(table)), chosen).settings | s
    s = _with_kv_heads(s)
    s = s | deepspeed_json.stage_of(launch.after, script, s) | {"script": name}
    whole = launch.by_structure and s.get("layers") and s.get("micro_batch")
    if whole and not LAYOUT_SETTINGS & s.keys() and not s.get("checkpoint_args"):
        note = "the command names no degree: Megatron-LM's defaults are TP 1 and PP 1"
        s |= {"tp": 1, "own_notes": (note,)}
    return s


_HEAD_TYPES = {"multihead": None, "multiquery": 1}


def _with_kv_heads(s: Settings) -> Settings:
    """KV heads as forks say them: Megatron-DeepSpeed by their number, BigCode's by the attention's kind."""
    number = s.get("key_value_heads")
    if s.get("head_type") is not None:
        kind = str(s["head_type"])
        if kind not in _HEAD_TYPES:
            raise contradiction("--attention-head-type", kind, "is not known", list(_HEAD_TYPES))
        number = _HEAD_TYPES[kind]
    return s if number is None else s | {"kv_heads": number, "grouped_queries": True}


def split(table: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """A YAML's sections are of no matter; flags may be written as its keys."""
    return {}, {key.lstrip("-"): value for key, value in leaves(table).items()}


# scripts that compute without training, by a word of their names
_RUNS = re.compile(
    r"(^|[_/-])(generat\w*|infer\w*|eval\w*|zeroshot|server|conver\w*|export\w*|preprocess\w*)(?=[_./-]|$)"
)


def check_command(launch: Launch) -> None:
    """Raise for a script that computes without training."""
    script = launch.before[-1] if launch.before else ""
    own = "/".join(script.split("/")[-2:])
    if script.endswith(".py") and _RUNS.search(own.removesuffix(".py")):
        raise NoLaunch(
            f"command: {shorten(own)} does not train: its layout is not priced as training",
            field="command",
            value=own,
            legal="the command of the script that trains",
        )


def shape(s: Settings) -> Settings:
    """What the flags say of the model."""
    return {name: s[name] for name in SHAPE if s.get(name) is not None}


def claims(before: list[str], after: list[str], says: set[str]) -> int:
    """Its degrees; else a script of its name."""
    if "megatron-lm" in says:
        return 3
    script = before[-1]
    named = script.rpartition("/")[2].startswith("pretrain_")
    module = before[-2:-1] == ["-m"] and script.startswith("megatron")
    return int(named or (script.endswith(".py") and "megatron" in script.lower()) or module)


_OPTIMIZERS = {"adam": "adam", "sgd": "sgd", "muon": "muon", "dist_muon": "muon", "lion": "lion"}


def optimizer_settings(job: Job) -> Settings:
    """The optimizer and where its state is, in the words of Megatron-Core's ``OptimizerConfig``."""
    s: Settings = {}
    if job.optimizer in _OPTIMIZERS.values():
        s["optimizer"] = job.optimizer
    if job.offload_optimizer:
        s["offload_optimizer"] = True
    return s


def optimizer_fields(said: str, notes: list[str]) -> dict[str, Any]:
    """A job's optimizer by the target's word for it; Adam is what holds without one."""
    word = said.lower()
    if word not in _OPTIMIZERS:
        notes.append(f"the optimizer {said} is not priced: Adam is")
        return {}
    return {"optimizer": _OPTIMIZERS[word]} if word != "adam" else {}


_BUILT = {"gated_delta"}  # recurrent layers of pretrain_gpt.py (experimental_attention_variant)


def _check_script(job: Job, chosen: Target) -> None:
    """Refuse a model whose layers another script builds, with a pattern that is not written here."""
    known = job.model is not None and named_model(job.model) is not None
    blocks = load_model(job.model).blocks if job.model and known else ()
    rules = {b.recurrent.rule for b in blocks if b.recurrent is not None} - _BUILT
    if rules:
        raise InputError(
            f"{chosen.title} cannot run {job.model} by pretrain_gpt.py, which builds no layers of rule "
            f"{' or '.join(sorted(rules))}",
            field="model",
            value=job.model,
            legal="a model of attention layers, or another target",
        )


def write(job: Job, chosen: Target) -> Written:
    _check_script(job, chosen)
    s = _settings(job)
    more: tuple[str, ...] = ("$MODEL_ARGS $DATA_ARGS",)
    if s.get("fsdp"):  # the one format of checkpoints that Megatron-FSDP writes
        more = ("--ckpt-format fsdp_dtensor", *more)
    start = torchrun(job, "pretrain_gpt.py")
    # before Blackwell collectives of TP and CP overlap with compute by the order of one queue, which
    # Megatron-LM asserts; FSDP needs several (megatron/training/arguments.py, ``validate_args``)
    if job.tp * job.cp > 1 and not s.get("fsdp"):
        start = f"CUDA_DEVICE_MAX_CONNECTIONS=1 {start}"
    return flag_lines(start, s, chosen, more), {}
