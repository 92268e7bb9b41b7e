"""A job written as the launch command of a target."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

import msgspec

from meshwise.dtypes import NARROW
from meshwise.errors import IllegalLayout, InputError, MeshwiseError
from meshwise.launch.job import Job
from meshwise.launch.read import Parsed, parse
from meshwise.launch.settings import Settings
from meshwise.launch.table import Target, target
from meshwise.launch.targets import deepspeed as zero
from meshwise.launch.targets import serving, switches, training, trtllm
from meshwise.launch.targets import torchtitan as titan
from meshwise.launch.wrappers import written as wrappers
from meshwise.models.names import hub_id

WRAPPERS = ("torchrun", "slurm", "lws", "kuberay")
# what the reading of a command cannot know of a job
NOT_LAUNCHED = ("gpus_per_node",)


class Exported(NamedTuple):
    """The text to run (here-documents write its files), and what it does not say.

    ``gpus`` are those of one command, counted from its own text; ``servers`` how many of it make the
    job. ``untranslated``: field → why the target does not say it.
    """

    target: str
    version: str
    wrapper: str | None
    text: str
    files: dict[str, str]
    gpus: int
    servers: int
    untranslated: dict[str, str]
    notes: tuple[str, ...]


def export(
    job: Job, name: str, *, wrapper: str | None = None, version: str | None = None
) -> Exported:
    """The launch command of ``job`` for a target; everything that the command, read again, does not
    say is in ``untranslated``. Raises :class:`~meshwise.errors.InputError` for a target of the other
    phase and for a wrapper that it does not run in."""
    chosen = target(name, version)
    if chosen.phase != job.phase:
        kind = {"train": "trains", "serve": "serves"}[chosen.phase]
        legal = [n for n in _names() if target(n).phase == job.phase]
        raise InputError(
            f"{chosen.title} {kind}: this layout is for {'training' if job.phase == 'train' else 'serving'}",
            field="target",
            value=name,
            legal=legal,
        )
    if wrapper is not None and wrapper not in chosen.wrappers:
        raise InputError(
            f"wrapper: {chosen.title} does not run in {wrapper!r} here",
            field="wrapper",
            value=wrapper,
            legal=list(chosen.wrappers),
            nearest=chosen.wrappers[0] if chosen.wrappers else None,
        )
    _whole_nodes(job)
    switches.check(job)
    if job.phase == "train" and job.dtype is None:
        job = msgspec.structs.replace(job, dtype="bf16")  # what targets compute in is always said
    job = msgspec.structs.replace(job, model=hub_id(job.model) or job.model)
    command, files = WRITERS[chosen.name](job, chosen)
    plain = _with_files(command, files)
    read = _read_again(job, plain, chosen)
    servers = job.gpus // read.job.gpus if job.gpus % read.job.gpus == 0 else 1
    body = plain
    if wrapper in wrappers.WRAPPER_WRITERS:
        body, files = wrappers.WRAPPER_WRITERS[wrapper](job, chosen, command, files, servers)
    elif servers > 1 and job.gpus <= job.gpus_per_node:
        body = _with_files(_side_by_side(command, servers, read.job.gpus), files)
    missing = _missing(job, _whole(job, body, read, chosen), chosen)
    notes = list(read.notes)
    if servers > 1:
        notes.append(f"{servers} servers of {read.job.gpus} GPUs each behind a router")
    head = [
        f"# {chosen.title}, flags of {chosen.version}; {read.job.gpus} GPUs"
        + (f" each, {servers} servers" if servers > 1 else ""),
        f"# ranks, neighbours first: {job.placement}",
        *(f"# NOT SAID by this command: {field}: {why}" for field, why in missing.items()),
    ]
    shebang, rest = [], body
    if body.startswith("#!"):
        first, _, rest = body.partition("\n")
        shebang = [first]
    return Exported(
        target=chosen.name,
        version=chosen.version,
        wrapper=wrapper,
        text="\n".join([*shebang, *head, rest]),
        files=files,
        gpus=read.job.gpus,
        servers=servers,
        untranslated=missing,
        notes=tuple(notes),
    )


def _side_by_side(command: str, servers: int, gpus: int) -> str:
    """Servers of one node, each on GPUs and a port of its own."""
    devices = ",".join(f"$(({gpus} * i + {k}))" for k in range(gpus))
    return "\n".join(
        [
            f"for i in {' '.join(map(str, range(servers)))}; do",
            f"  CUDA_VISIBLE_DEVICES={devices} {command} \\\n    --port $((8000 + i)) &",
            "done",
            "wait",
        ]
    )


def _whole(job: Job, body: str, read: Parsed, chosen: Target) -> Parsed:
    """All servers of a text as they are read again; one where they are read only one by one."""
    if job.phase != "serve" or job.gpus == read.job.gpus:
        return read
    return parse(body, chosen.name, model=job.model, experts=job.has_experts_grid)


def _whole_nodes(job: Job) -> None:
    """Launchers start as many processes on every node."""
    each = job.gpus_per_node
    if job.phase == "train" and job.gpus > each and job.gpus % each:
        raise IllegalLayout(
            f"{job.gpus} GPUs are no whole number of nodes of {each}",
            field="gpus_per_node",
            value=each,
            legal=[d for d in range(1, each + 1) if job.gpus % d == 0],
        )
    engine = job.tp * job.pp
    local = max(each // engine, 1)
    if job.phase == "serve" and engine <= each < job.gpus and (each % engine or job.dp % local):
        raise IllegalLayout(
            f"{job.dp} replicas of {engine} GPUs do not fill nodes of {each} evenly",
            field="gpus_per_node",
            value=each,
            legal=[d for d in range(engine, each + 1, engine) if job.dp % (d // engine) == 0],
        )


def _read_again(job: Job, text: str, chosen: Target) -> Parsed:
    """The command as its target reads it. Degrees that it cannot say would run another layout on the
    same GPUs: they are refused, not reported."""
    for field in ("pp", "cp", "ep"):
        if getattr(job, field) > 1 and field in chosen.cannot:
            raise _cannot(job, field, chosen.cannot[field], chosen)
    gpus = job.gpus if chosen.phase == "train" else None
    try:
        read = parse(text, chosen.name, gpus=gpus, model=job.model, experts=job.has_experts_grid)
    except MeshwiseError as error:
        raise IllegalLayout(
            f"{chosen.title} cannot run this layout: {error.sentence}",
            field=error.field or "layout",
            value=error.value,
            legal="another layout, or another target",
        ) from None
    for field in ("tp", "pp", "cp", "ep"):
        if getattr(read.job, field) != getattr(job, field):
            why = f"its flags come to {field} {getattr(read.job, field)}"
            raise _cannot(job, field, why, chosen)
    if read.job.dp != job.dp and (read.job.dp != 1 or chosen.phase == "train"):
        raise _cannot(job, "dp", f"its flags come to dp {read.job.dp}", chosen)
    return read


def _cannot(job: Job, field: str, why: str, chosen: Target) -> IllegalLayout:
    value = getattr(job, field)
    return IllegalLayout(
        f"{chosen.title} cannot run {field} {value} of this layout: {why}",
        field=field,
        value=value,
        legal="another layout, or another target",
    )


def _names() -> tuple[str, ...]:
    from meshwise.launch.table import targets

    return targets()


def _missing(job: Job, read: Parsed, chosen: Target) -> dict[str, str]:
    """Every field of the job that its command, read again, does not have."""
    found: dict[str, str] = {}
    dense_experts = not job.has_experts_grid and not read.job.has_experts_grid
    for field in Job.__struct_fields__:
        mine, theirs = getattr(job, field), getattr(read.job, field)
        theirs = switches.PLAIN.get(field) if theirs is None else theirs
        if field in NOT_LAUNCHED or mine == theirs or (field == "model" and not mine):
            continue
        if mine is None or (field == "etp" and dense_experts):
            continue
        if field == "model":
            continue  # given to the reader, as the command may not name it
        why = chosen.cannot.get(field)
        if why is None and field == "dp" and job.gpus % read.job.gpus == 0 and read.job.dp == 1:
            why = "replicas are servers of their own"
        if why is None and field == "concurrency":
            why = f"said per replica: {theirs} over all"
        found[field] = f"{mine}: {why or f'{chosen.title} has no flag for it'}"
    if job.phase == "serve" and read.job.dtype in NARROW and job.dtype not in NARROW:
        found["dtype"] = f"16 bit: products are in {read.job.dtype} too where the device has them"
    return found


def _with_files(command: str, files: dict[str, str]) -> str:
    """The command after here-documents that write its files."""
    parts = [f"cat > {name} <<'EOF'\n{text.rstrip()}\nEOF" for name, text in files.items()]
    return "\n".join([*parts, command])


def lines(program: str, settings: Settings, chosen: Target, more: tuple[str, ...] = ()) -> str:
    """A command, a flag on each line."""
    parts = [program]
    for name, value in settings.items():
        flag = chosen.flags.get(name)
        if flag is None or value is None or value is False:
            continue
        spelling = flag.spellings[0]
        if chosen.style == "overrides":
            shown = f"[{','.join(value)}]" if isinstance(value, tuple) else value
            parts.append(shlex.quote(f"{spelling}={shown}"))
        elif isinstance(value, tuple):
            parts.append(" ".join([spelling, *map(shlex.quote, value)]))
        else:
            parts.append(
                spelling if flag.kind == "flag" else f"{spelling} {shlex.quote(str(value))}"
            )
    return " \\\n    ".join([*parts, *more])


def torchrun(job: Job, program: str) -> str:
    """torchrun on each node of the job."""
    each = min(job.gpus, job.gpus_per_node)
    if job.nodes == 1:
        return f"torchrun --standalone --nproc-per-node {each} {program}"
    return (
        f"torchrun --nnodes {job.nodes} --nproc-per-node {each} --rdzv-id job --rdzv-backend c10d "
        f"--rdzv-endpoint $MASTER_ADDR:29500 {program}"
    )


Written = tuple[str, dict[str, str]]


def _vllm(job: Job, chosen: Target) -> Written:
    s = serving.vllm_settings(job)
    engine = job.tp * job.pp
    more: tuple[str, ...] = ()
    whole = engine * s.get("dp", 1)
    if engine > job.gpus_per_node:
        nodes = -(-engine // job.gpus_per_node)
        more = (f"--nnodes {nodes} --node-rank $NODE_RANK --master-addr $MASTER_ADDR",)
    elif whole > job.gpus_per_node:
        local = job.gpus_per_node // engine
        more = (
            f"--data-parallel-size-local {local} --data-parallel-start-rank $((NODE_RANK * {local}))",
            "--data-parallel-address $MASTER_ADDR --data-parallel-rpc-port 13345",
            "$([ $NODE_RANK -gt 0 ] && echo --headless)",
        )
    return lines(f"vllm serve {shlex.quote(job.model)}", s, chosen, more), {}


def _sglang(job: Job, chosen: Target) -> Written:
    s = serving.sglang_settings(job)
    more: tuple[str, ...] = ()
    whole = s["tp"] * job.pp * (1 if s.get("dp_attention") else s.get("dp", 1))
    if whole > job.gpus_per_node:
        nodes = -(-whole // job.gpus_per_node)
        more = (f"--nnodes {nodes} --node-rank $NODE_RANK --dist-init-addr $MASTER_ADDR:20000",)
    program = f"python -m sglang.launch_server --model-path {shlex.quote(job.model)}"
    return lines(program, s, chosen, more), {}


def _trtllm(job: Job, chosen: Target) -> Written:
    s = trtllm.settings(job)
    files = {}
    if s["yaml"]:
        files["config.yaml"] = _yaml(s["yaml"])
        s["config"] = "config.yaml"
    if (
        job.tp * job.pp * (job.dp if s["yaml"].get("enable_attention_dp") else 1)
        > job.gpus_per_node
    ):
        s["gpus_per_node"] = job.gpus_per_node
    return lines(f"trtllm-serve {shlex.quote(job.model)}", s, chosen), files


def _yaml(table: dict[str, Any], indent: int = 0) -> str:
    rows = []
    for key, value in table.items():
        if isinstance(value, dict):
            rows += [" " * indent + f"{key}:", _yaml(value, indent + 2)]
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            rows.append(" " * indent + f"{key}: {shown}")
    return "\n".join(rows)


def _megatron(job: Job, chosen: Target) -> Written:
    s = training.megatron_settings(job)
    return lines(torchrun(job, "pretrain_gpt.py"), s, chosen, ("$MODEL_ARGS $DATA_ARGS",)), {}


def _bridge(job: Job, chosen: Target) -> Written:
    return lines(torchrun(job, "$RECIPE"), training.bridge_settings(job), chosen), {}


def _titan(job: Job, chosen: Target) -> Written:
    """A Python function that returns the configuration: section flags are to be removed."""
    s = titan.settings(job)
    sections: dict[str, dict[str, Any]] = {}
    for name, value in s.items():
        section, _, key = chosen.flags[name].spellings[0].removeprefix("--").partition(".")
        sections.setdefault(section, {})[key] = value
    classes = {
        "parallelism": "ParallelismConfig",
        "training": "TrainingConfig",
        "activation_checkpoint": "ActivationCheckpointConfig",
        "loss": "ChunkedLossWrapper.Config",
    }
    body = []
    for section, values in sections.items():
        body.append(f"        {section}={classes[section]}(")
        for key, value in values.items():
            boolean = value in ("True", "False")
            shown = value if boolean or not isinstance(value, str) else f'"{value}"'
            body.append(f"            {key}={shown},")
        body.append("        ),")
    imports = "\n".join(f"    {classes[s]}," for s in sorted(sections) if s != "loss")
    text = (
        "from torchtitan.components.loss import ChunkedLossWrapper\n"
        * ("loss" in sections)
        + "from torchtitan.config import (\n"
        f"{imports}\n)\nfrom torchtitan.trainer import Trainer\n\n\n"
        "def meshwise_config() -> Trainer.Config:\n    return Trainer.Config(\n"
        + "\n".join(body)
        + "\n    )"
    )
    command = (
        f"{torchrun(job, '-m torchtitan.train')} --module meshwise_titan --config meshwise_config"
    )
    return command, {"meshwise_titan.py": text}


def _deepspeed(job: Job, chosen: Target) -> Written:
    table: dict[str, Any] = {}
    for name, value in zero.deepspeed_settings(job).items():
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


def _accelerate(job: Job, chosen: Target) -> Written:
    s = zero.accelerate_settings(job)
    more: tuple[str, ...] = ()
    if job.nodes > 1:
        more = (
            "--machine_rank $NODE_RANK --main_process_ip $MASTER_ADDR --main_process_port 29500",
        )
    return lines("accelerate launch", s, chosen, (*more, "$TRAIN_SCRIPT")), {}


WRITERS = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "megatron-lm": _megatron,
    "megatron-bridge": _bridge,
    "torchtitan": _titan,
    "deepspeed": _deepspeed,
    "accelerate": _accelerate,
}
