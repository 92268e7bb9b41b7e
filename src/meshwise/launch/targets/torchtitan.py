"""What torchtitan's settings mean: from a job, and a job's fields from them."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import shorten
from meshwise.launch.command_text import Written, torchrun
from meshwise.launch.files.recipes import with_recipe
from meshwise.launch.find import Launch
from meshwise.launch.job import Job
from meshwise.launch.python.configurations import one_config, python_tree, written_configs
from meshwise.launch.settings.settings import (
    Read,
    Settings,
    contradiction,
    replicas_left,
    yes,
)
from meshwise.launch.shell.commands import Script
from meshwise.launch.table import Target
from meshwise.models.names import named_model
from meshwise.stacks.schedules import USUAL, from_torchtitan, torchtitan_name


def _settings(job: Job) -> Settings:
    """World = dp_replicate · dp_shard · cp · tp · pp; ep divides dp_shard · cp · tp. ZeRO-3 is FSDP2,
    ZeRO-2 FSDP2 that never frees its weights."""
    sharded = job.shard in ("zero2", "zero3")
    s: Settings = {
        "dp_replicate": 1 if sharded else job.dp,
        "dp_shard": job.dp if sharded else 1,
        "tp": job.tp,
        "pp": job.pp,
        "cp": job.cp,
    }
    if job.shard == "zero2":
        s["reshard"] = "never"
    if job.has_experts_grid:
        s["ep"] = job.ep
    s["sequence_parallel"] = str(job.sequence_parallel)
    if job.overlap == "decomposed":
        s["async_tp"] = "True"
    if job.pp > 1:
        s["pp_schedule"] = torchtitan_name(job.schedule, job.vp > 1)
    if job.micro_batch is not None and job.seq is not None:
        s["micro_tokens"] = job.micro_batch * job.seq
        if job.global_batch is not None:
            s["step_tokens"] = job.global_batch * job.seq
            if job.pp > 1:
                s["pp_microbatches"] = job.global_batch // job.dp // job.micro_batch
    if job.seq is not None:
        s["seq"] = job.seq
    if job.loss_chunks is not None:
        s["loss_chunks"] = job.loss_chunks
    s["checkpointing"] = job.recompute
    s["precision"] = {"fp32": "float32"}.get(job.dtype or "", "bfloat16")
    s["reduce"] = "float32"  # its only one
    return s


def read(s: Settings, world: int | None) -> Read:
    tp, pp, cp = s.get("tp", 1), s.get("pp", 1), s.get("cp", 1)
    replicate, shard = s.get("dp_replicate", 1), s.get("dp_shard", -1)
    rest = tp * pp * cp * replicate
    if shard == -1:
        shard = replicas_left(world, rest, "data_parallel_shard_degree")
    elif world is not None and rest * shard != world:
        raise contradiction(
            "world",
            world,
            f"dp_replicate {replicate} · dp_shard {shard} · cp {cp} · tp {tp} · pp {pp} = {rest * shard}",
            rest * shard,
        )
    ep = s.get("ep", 1)
    if (shard * cp * tp) % ep:
        legal = [d for d in range(1, shard * cp * tp + 1) if (shard * cp * tp) % d == 0]
        raise contradiction(
            "expert_parallel_degree",
            ep,
            f"does not divide dp_shard · cp · tp = {shard * cp * tp}",
            legal,
        )
    notes: list[str] = list(s.get("recipe_notes", ()))
    etp = s.get("etp", 1 if ep > 1 else tp)
    if etp not in (1, tp):
        raise contradiction("expert_tensor_parallel_degree", etp, "is neither 1 nor TP", (1, tp))
    stage = "none"
    if shard > 1:
        stage = "zero2" if str(s.get("reshard", "")).lower() == "never" else "zero3"
        if replicate > 1:
            notes.append(f"hybrid sharding over {shard} of {shard * replicate}: priced as over all")
    found = {
        "tp": tp,
        "pp": pp,
        "cp": cp,
        "dp": replicate * shard,
        "ep": ep,
        "etp": tp if ep == 1 else etp,
        "sequence_parallel": tp > 1 and yes(s.get("sequence_parallel", "true")),
        "overlap": "decomposed" if yes(s.get("async_tp", "false")) else "none",
        "shard": stage,
        "recompute": s.get("checkpointing", "none"),
    }
    if found["recompute"] not in ("none", "selective", "full"):
        raise contradiction(
            "activation_checkpoint.mode",
            found["recompute"],
            "is not known",
            ("none", "selective", "full"),
        )
    if s.get("pp_schedule") is not None:
        schedule = from_torchtitan(str(s["pp_schedule"]))
        if schedule is None:
            notes.append(f"the schedule {s['pp_schedule']} is priced as 1F1B")
        found["schedule"] = schedule or USUAL
        if pp > 1 and schedule == USUAL and str(s["pp_schedule"]).lower() == _INTERLEAVED:
            found["vp"] = 2  # stages of a rank where no number of layers is said
    more, said = _batches(s, found["dp"], pp)
    found |= more
    notes += said
    for name in ("seq", "loss_chunks"):
        if s.get(name) is not None:
            found[name] = s[name]
    short = {"bfloat16": "bf16", "float32": "fp32"}
    if s.get("precision") in short:
        found["dtype"] = short[s["precision"]]
    narrow, said = _converted(s)
    if narrow is not None:
        found["dtype"] = narrow
    notes += said
    if s.get("reduce") in short:
        found["grad_dtype"] = short[s["reduce"]]
    return found, notes


_INTERLEAVED = torchtitan_name(USUAL, True).lower()


def _batches(s: Settings, dp: int, pp: int) -> tuple[Settings, list[str]]:
    """(sizes of the batches, sentences). A rank's batch is cut into microbatches by their number or
    size, else of one sequence (``pipeline_parallel_microbatch_size``); the newest releases count tokens."""
    if s.get("micro_tokens") is not None:
        return _by_tokens(s, dp), []
    local = s.get("local_batch")
    if local is None:
        return {}, []
    whole = s.get("global_batch")
    found = {"global_batch": whole if whole and whole > 0 else local * dp}
    parts, each = s.get("pp_microbatches"), s.get("pp_microbatch")
    if parts is None and each is None and pp > 1 and local > 1:
        said = "pipeline_parallel_microbatch_size is not said: its default of 1 is priced"
        return found | {"micro_batch": 1}, [said]
    cut = parts or (local // each if pp > 1 and each and local % each == 0 else 1)
    if local % cut or (pp > 1 and each and local % each):
        raise contradiction(
            "num_pp_microbatches" if parts else "pipeline_parallel_microbatch_size",
            parts or each,
            f"does not divide the local batch of {local}",
            "a divisor",
        )
    return found | {"micro_batch": local // cut}, []


def _by_tokens(s: Settings, dp: int) -> Settings:
    tokens, seq = s["micro_tokens"], s.get("seq")
    if seq is None or tokens % seq:
        raise contradiction(
            "num_tokens_per_microbatch_per_dp_rank",
            tokens,
            "is no multiple of max_context_length" if seq else "max_context_length is not said",
            f"multiples of {seq}" if seq else "with --training.max_context_length",
        )
    micro, step = tokens // seq, s.get("step_tokens")
    steps = s.get("pp_microbatches") or 1
    whole = step // seq if step and step > 0 and step % seq == 0 else micro * dp * steps
    return {"micro_batch": micro, "global_batch": whole}


# converters of a model by what they make of its products, as releases have called them
_CONVERTERS = {
    "float8": "fp8",
    "quantize.linear.float8": "fp8",
    "quantize.dense.float8": "fp8",
    "mx": "mxfp8",
    "quantize.linear.mx": "mxfp8",
    "quantize.linear.nvfp4": "nvfp4",
}
_OF_EXPERTS = ("quantize.grouped_mm.float8", "quantize.grouped_mm.mx")


def _converted(s: Settings) -> tuple[str | None, list[str]]:
    """(format of the products, sentences) by the model's converters."""
    names = re.findall(r"[\w.]+", str(s.get("converters") or ""))
    found = [_CONVERTERS[name] for name in names if name in _CONVERTERS]
    found += ["fp8"] if s.get("float8") else []
    if len(set(found)) > 1:
        raise contradiction(
            "--model.converters", s["converters"], "names two formats", "one of them"
        )
    unknown = [n for n in names if n not in _CONVERTERS and n not in _OF_EXPERTS]
    notes = [f"the converter {shorten(name)} is not priced" for name in unknown]
    experts = any(n in _OF_EXPERTS for n in names)
    if experts and not found:
        notes.append("only experts are converted (grouped products): priced without it")
    if found and not experts and s.get("experts"):
        notes.append("experts are not converted (grouped products): priced as if they were")
    return (found[0] if found else None), notes


def claims(before: list[str], after: list[str], says: set[str]) -> int:
    """Its own script by its path, or the option that names its file."""
    own = "/".join(before[-1].split("/")[-2:]) == "torchtitan/train.py"
    file = any(w.partition("=")[0] == "--job.config_file" for w in after)
    return 3 * int(own or file)


def with_files(s: Settings, text: str, launch: Launch, script: Script, chosen: Target) -> Settings:
    """The configuration that the command names: a function of the text, of a file that it writes, or of
    torchtitan itself, by its module and name."""
    own = {k: v for k, v in s.items() if k not in ("config", "module")}
    name = s.get("config") or launch.variables.get("CONFIG")
    module = s.get("module") or launch.variables.get("MODULE")
    for file in (text, *script.files.values()):
        tree = python_tree(file) if "Config" in file else None
        configs = written_configs(tree, chosen) if tree is not None else []
        written = one_config(configs, name)
        if written is not None:
            model = _of_family(written.model, module)
            return model_named({"model": model} | written.settings | own)
    if name is None:
        return model_named(own)
    return model_named(with_recipe(own, f"{module}:{name}" if module else name, chosen))


def _of_family(model: str | None, module: str | None) -> str | None:
    """A model by its flavour alone, as the configurations in a family's own folder name it: of the family
    that the command's module is."""
    whole = f"{module.rpartition('.')[2]}:{model}" if module and model else ""
    return whole if whole in _FLAVOURS else model


# flavours of torchtitan's models, by module and name, as presets of the same sizes
_FLAVOURS = {
    "llama3:8B": "llama-3.1-8b",
    "llama3:70B": "llama-3.1-70b",
    "llama3:405B": "llama-3.1-405b",
    "llama2:7B": "llama-2-7b",
    "llama2:13B": "llama-2-13b",
    "llama2:70B": "llama-2-70b",
    "deepseek_v3:16B": "deepseek-v2-lite",
    "deepseek_v3:671B": "deepseek-v3",
    **{f"qwen3:{n}": f"qwen3-{n.lower()}" for n in ("0.6B", "1.7B", "4B", "8B", "14B", "32B")},
    "qwen3:30B-A3B": "qwen3-30b-a3b",
    "qwen3:235B-A22B": "qwen3-235b-a22b",
    "gpt_oss:20b": "gpt-oss-20b",
    "gpt_oss:120b": "gpt-oss-120b",
}


def model_named(s: Settings) -> Settings:
    """The model of a configuration: its own word for it, or the preset of the same sizes."""
    said = s.pop("model", None)
    parts = [s.pop(k, None) for k in ("family", "flavour")]
    if all(parts):
        said = ":".join(map(str, parts))
    known = _FLAVOURS.get(str(said), said)
    if any(k in s for k in ("local_batch", "micro_tokens", "seq")):
        s.setdefault("dp_shard", -1)  # ParallelismConfig: all that the other degrees leave
    return s | {"model": known} if known else s


def _flavour(job: Job) -> str:
    """The family and flavour of a job's model; empty where torchtitan has none that is known here."""
    named = named_model(job.model) if job.model else None
    preset = named.preset if named is not None else ""
    return next((word for word, known in _FLAVOURS.items() if known == preset), "")


def split(table: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The model that a file names by ``model.name`` and ``model.flavor``."""
    named = {k: table.get(f"model.{key}") for k, key in (("family", "name"), ("flavour", "flavor"))}
    return model_named({k: v for k, v in named.items() if v}), table


def write(job: Job, chosen: Target) -> Written:
    """A Python function that returns the configuration: section flags are to be removed. Graphs of a
    step are off: they are priced nowhere, and its pipelines and exchanges of tokens refuse them
    (``Trainer.Config._validate_cuda_graphs``)."""
    s = _settings(job)
    sections: dict[str, dict[str, Any]] = {}
    for name, value in s.items():
        if name != "checkpointing":
            section, _, key = chosen.flags[name].spellings[0].removeprefix("--").partition(".")
            sections.setdefault(section, {})[key] = value
    sections.setdefault("training", {})["disable_cuda_graphs"] = str(not job.cuda_graphs)
    if "compile" in sections:
        sections["compile"] = {"enable": "True", **sections["compile"]}
    family, _, flavour = _flavour(job).partition(":")
    body = [f'        model_spec=model_registry("{flavour}"),'] if flavour else []
    own = (
        "dataloader, tokenizer and checkpoints" if flavour else "model_spec, dataloader, tokenizer"
    )
    body.append(f"        # yours to add: {own}")
    for section, values in sections.items():
        body.append(f"        {section}={_CLASSES[section]}(")
        for key, value in values.items():
            boolean = value in ("True", "False")
            shown = value if boolean or not isinstance(value, str) else f'"{value}"'
            body.append(f"            {key}={shown},")
        body.append("        ),")
    kept = _RECOMPUTED[s["checkpointing"]]
    body.append(f"        activation_checkpoint={f'{kept}.Config()' if kept else None},")
    imports = "".join(f"    {_CLASSES[name]},\n" for name in sorted(sections) if name != "loss")
    text = (
        "from torchtitan.components.loss import ChunkedLossWrapper\n" * ("loss" in sections)
        + f"from torchtitan.config import (\n{imports})\n"
        + f"from torchtitan.distributed.activation_checkpoint import {kept}\n" * bool(kept)
        + f"from torchtitan.models.{family} import model_registry\n" * bool(flavour)
        + "from torchtitan.trainer import Trainer\n\n\n"
        "def meshwise_config() -> Trainer.Config:\n    return Trainer.Config(\n"
        + "\n".join(body)
        + "\n    )"
    )
    command = (
        f"{torchrun(job, '-m torchtitan.train')} --module meshwise_titan --config meshwise_config"
    )
    return command, {"meshwise_titan.py": text}


_CLASSES = {
    "parallelism": "ParallelismConfig",
    "training": "TrainingConfig",
    "compile": "CompileConfig",
    "loss": "ChunkedLossWrapper.Config",
}
_RECOMPUTED = {"none": None, "selective": "SelectiveAC", "full": "FullAC"}
