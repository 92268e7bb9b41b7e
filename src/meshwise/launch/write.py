"""A job written as the launch command of a target."""

from __future__ import annotations

import contextlib
import shlex
from typing import NamedTuple

import msgspec

from meshwise.dtypes import NARROW
from meshwise.errors import IllegalLayout, InputError, MeshwiseError, shorten
from meshwise.launch.command_text import Written, with_written_files
from meshwise.launch.job import JOB_FIELDS, Job
from meshwise.launch.read import Parsed, parse
from meshwise.launch.settings import plain, switches
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import Target, every_target, function_of, target
from meshwise.launch.wrappers import written as wrappers
from meshwise.models.load import load_model
from meshwise.models.names import hub_id, named_model
from meshwise.units import format_gpus

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


def write_launch(
    job: Job,
    name: str,
    *,
    wrapper: str | None = None,
    version: str | None = None,
    read_from: Parsed | None = None,
) -> Exported:
    """The launch command of ``job`` for a target; everything that the command, read again, does not
    say is in ``untranslated``, and so are the flags of a command that the job was ``read_from`` which
    change its price: the same target is told them again. Raises :class:`~meshwise.errors.InputError` for a target of the other
    phase and for a wrapper that it does not run in."""
    chosen = target(name, version)
    if chosen.phase != job.phase:
        kind = {"train": "trains", "serve": "serves"}[chosen.phase]
        legal = [t.name for t in every_target() if t.phase == job.phase]
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
    switches.check_job_switches(job)
    if job.phase == "train" and job.dtype is None:
        job = msgspec.structs.replace(job, dtype="bf16")  # what targets compute in is always said
    job = msgspec.structs.replace(job, model=hub_id(job.model) or job.model)
    command, files = _written(job, chosen)
    command = _with_flags(command, chosen, read_from)
    plain = with_written_files(command, files)
    read = _read_again(job, plain, chosen)
    servers = job.gpus // read.job.gpus if job.gpus % read.job.gpus == 0 else 1
    body = plain
    if wrapper in wrappers.WRAPPER_WRITERS:
        body, files = wrappers.WRAPPER_WRITERS[wrapper](job, chosen, command, files, servers)
    elif servers > 1 and job.gpus <= job.gpus_per_node:
        body = with_written_files(_side_by_side(command, servers, read.job.gpus), files)
    missing = _missing(job, _whole(job, body, read, chosen), chosen)
    missing |= _flags_left(read_from, read)
    notes = list(read.notes)
    if servers > 1:
        notes.append(f"{servers} servers of {format_gpus(read.job.gpus)} each behind a router")
    notes += _not_listed(job.model, chosen)
    head = [
        f"# {chosen.title}, flags of {chosen.version}; {format_gpus(read.job.gpus)}"
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


def _not_listed(name: str, chosen: Target) -> list[str]:
    """That the documentation of a target lists no model of a known one's type."""
    if not chosen.model_types or not name:
        return []
    kind = ""
    with contextlib.suppress(MeshwiseError):
        if named_model(name) is not None:
            kind = load_model(name).model_type
    if not kind or kind in chosen.model_types:
        return []
    return [
        f"the models that {chosen.title}'s documentation lists have none of type {kind}: whether it runs "
        f"{name} is not known here"
    ]


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
    nodes = -(-engine // each)
    if job.phase == "serve" and engine % nodes:
        raise IllegalLayout(
            f"{engine} GPUs of an engine do not share {nodes} nodes of {each} evenly",
            field="gpus_per_node",
            value=each,
            legal=[d for d in range(1, engine + 1) if engine % -(-engine // d) == 0][-20:],
        )
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


def _written(job: Job, chosen: Target) -> Written:
    """The command by the target's module, or by its table alone."""
    write = function_of(chosen, "write") or plain.command_each
    found: Written = write(job, chosen)
    return found


def _with_flags(command: str, chosen: Target, read_from: Parsed | None) -> str:
    """The command with the flags of another that change its price and are no settings of a job, before
    its own: some launchers take what follows a script as the script's."""
    if read_from is None or read_from.target != chosen.name or chosen.style == "json":
        return command
    said = [
        _flag_words(u.flag, chosen)
        for u in read_from.unpriced
        if u.flag.startswith("-") or (chosen.style == "overrides" and "=" in u.flag)
    ]
    program, cut, rest = command.partition(_NEXT)
    return _NEXT.join([program, *said]) + cut + rest


_NEXT = " \\\n    "


def _flag_words(shown: str, chosen: Target) -> str:
    """A flag and its values as a shell takes them: one value may hold spaces, several are apart."""
    name, _, rest = shown.partition(" ")
    source = source_flags(chosen.name)
    own = source.get(name) if source is not None else None
    if not rest:
        return shlex.quote(name)
    many = own is None or own.values not in ("1", "?")
    return " ".join(map(shlex.quote, [name, *(rest.split() if many else [rest])]))


def _flags_left(read_from: Parsed | None, read: Parsed) -> dict[str, str]:
    """Flags of the command that the job was read from which change its price, and are not said."""
    if read_from is None:
        return {}
    said = {u.flag for u in read.unpriced} if read_from.target == read.target else set()
    whose = f"a flag of {target(read_from.target).title}: "
    return {
        shorten(u.flag): f"{whose if read_from.target != read.target else ''}it changes {u.changes}"
        for u in read_from.unpriced
        if u.flag not in said
    }


def _missing(job: Job, read: Parsed, chosen: Target) -> dict[str, str]:
    """Every field of the job that its command, read again, does not have."""
    found: dict[str, str] = {}
    dense_experts = not job.has_experts_grid and not read.job.has_experts_grid
    for field in JOB_FIELDS:
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
