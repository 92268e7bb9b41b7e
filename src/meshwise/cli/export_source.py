"""What ``export --from`` reads (a row of a plan or an estimate as JSON, a launch command), and what a job has
beside its layout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from meshwise.axes import AXES
from meshwise.cli import switches
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.launch.job import Job
    from meshwise.launch.read import Parsed

MAX_SOURCE_BYTES = 200_000_000
_PRINTED = "what `meshwise plan --json` or `meshwise estimate --json` prints"


class Sourced(NamedTuple):
    """A job of a file, what its figures were priced as, and the command that it was read from."""

    job: Job
    priced_as: list[str]
    command: Parsed | None = None


def job_of_file(model: str | None, o: Given) -> Sourced:
    """A job from a row of a plan, from an estimate, or from a launch command."""
    from meshwise import launch

    source = o.word("source")
    _refuse_layout(o)
    text = _read_source(source)
    if text.strip() and not text.lstrip().startswith(("{", "[")):
        read = launch.parse(text, model=model)
        given = {k: v for k, v in more_of_job(o, read.job.phase).items() if v is not None}
        node = o.number("gpus_per_node")
        given |= {} if node is None else {"gpus_per_node": node}
        return Sourced(
            launch.job_of(read.job.model, read.job.phase, read.job.to_dict(), **given), [], read
        )
    record = _record_of(text, source)
    rows = record.get("layouts")
    if rows is None and isinstance(record.get("layout"), dict):
        rows = [record["layout"]]
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
        raise InputError(
            f"--from: {shorten(source)} has no layouts",
            field="--from",
            value=source,
            legal=_PRINTED,
        )
    row: dict[str, object] = rows[(o.number("row", high=len(rows)) or 1) - 1]
    work = _part(record, "workload")
    phase = str(work.get("phase", "train"))
    mine = "train" if phase == "train" else "serve"
    more = _priced(record, row, mine)
    given = {k: v for k, v in more_of_job(o, mine).items() if v is not None}
    more["gpus_per_node"] = o.number("gpus_per_node") or _node_devices(record)
    name = model or record.get("model") or ""
    return Sourced(launch.job_of(str(name), mine, row | more | given), _priced_as(record, phase))


def _refuse_layout(o: Given) -> None:
    """Refuse an axis typed beside a file that has the layout: nothing would come of it."""
    context = click.get_current_context()
    for name in (*(axis.said for axis in AXES.values()), "schedule"):
        source = context.get_parameter_source(name)
        if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
            option = option_of(name)
            raise InputError(
                f"{option}={shorten(o[name])}: the layout is the file's",
                field=option,
                value=o[name],
                legal=f"leave {option} out, or --from",
            )


def more_of_job(o: Given, phase: str) -> dict[str, object]:
    """What a job has beside its layout, as far as the options say it."""
    found: dict[str, object] = {name: o[name] for name in ("dtype", "weight_dtype", "kv_dtype")}
    if phase == "train":
        found |= {name: o.number(name) for name in ("global_batch", "seq")}
        found |= switches.read_switches(o, "")
        for name in ("isl", "osl", "concurrency", "weight_dtype", "kv_dtype"):
            if o.has(name):
                option = option_of(name)
                raise InputError(
                    f"{option}={shorten(o[name])} has no meaning in training",
                    field=option,
                    value=o[name],
                    legal=f"leave {option} out",
                )
        return found
    for name in switches.SWITCH_NAMES:
        if o.has(name):
            raise switches.refused_switch(name, o[name], "has no meaning in serving")
    isl, osl = o.number("isl"), o.number("osl")
    found["max_len"] = isl + osl if isl is not None and osl is not None else None
    found["concurrency"] = o.number("concurrency")
    return found


# -- the file --------------------------------------------------------------------------------------


def _read_source(path: str) -> str:
    from meshwise.files import read_text_file

    if path == "-":
        return sys.stdin.read(MAX_SOURCE_BYTES)
    if len(path.split()) > 1 and not _is_path(path):  # a command in quotes, as ``import`` takes one
        return path
    return read_text_file(str(Path(path)), "--from", "a file", MAX_SOURCE_BYTES)


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # longer than a path may be, or no path at all
        return False


def _record_of(text: str, path: str) -> dict[str, object]:
    try:
        record: object = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"--from: {shorten(path)} is no JSON: {error}",
            field="--from",
            value=path,
            legal=_PRINTED,
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"--from: {shorten(path)} is no JSON object",
            field="--from",
            value=path,
            legal="an object",
        )
    return record


def _part(record: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A table of the file; empty where it has none."""
    found = record.get(key) or {}
    if not isinstance(found, dict):
        raise _not_printed(key, found)
    return found


def _whole(table: Mapping[str, object], key: str, usual: int) -> int:
    """A whole number of the file, ``usual`` where it is not there."""
    found = table.get(key)
    if found is None:
        return usual
    if isinstance(found, bool) or not isinstance(found, int):
        raise _not_printed(key, found)
    return found


def _not_printed(key: str, found: object) -> InputError:
    return InputError(
        f"--from: {key} is {shorten(found)}", field="--from", value=found, legal=_PRINTED
    )


# -- what it says ----------------------------------------------------------------------------------


def _priced_as(record: Mapping[str, object], phase: str) -> list[str]:
    """That a plan's stack is one that does not run its phase."""
    from meshwise.stacks.load import is_known, load_stack
    from meshwise.stacks.stack import not_made_for

    name = str(_part(record, "stack").get("name", ""))
    return not_made_for(load_stack(name), phase) if is_known(name) else []


def _node_devices(record: Mapping[str, object]) -> int | None:
    """GPUs of a node of the file's cluster."""
    levels = _part(record, "cluster").get("levels") or []
    if not isinstance(levels, list) or not all(isinstance(level, dict) for level in levels):
        raise _not_printed("levels", levels)
    node = 1
    for level in levels:
        if level.get("kind") == "network":
            break
        node *= _whole(level, "ranks", 1)
    return node if levels else None


def _priced(
    record: Mapping[str, object], row: Mapping[str, object], phase: str
) -> dict[str, object]:
    """What was priced beside the degrees: the load, the formats, the stack's own switches."""
    work, stack = _part(record, "workload"), _part(record, "stack")
    found: dict[str, object] = {
        "comm_dtype": row.get("comm_dtype") or work.get("comm_dtype"),
        "attention": stack.get("attention"),
    }
    if phase == "train":
        return found | _training_of(row, work, stack, _part(record, "formats"))
    found |= _serving_of(row, work)
    return {k: v for k, v in found.items() if v is not None} | {"placement": "tp-cp-dp-pp"}


def _training_of(
    row: Mapping[str, object],
    work: Mapping[str, object],
    stack: Mapping[str, object],
    formats: Mapping[str, object],
) -> dict[str, object]:
    """Batch, sequence and formats of a training step, and the switches of its stack."""
    width = formats.get("gradient") or 0.0
    gradient = {4.0: "fp32", 2.0: "bf16"}.get(width) if isinstance(width, (int, float)) else None
    modules = stack.get("recompute_modules") or ()
    if not isinstance(modules, (list, tuple)):
        raise _not_printed("recompute_modules", modules)
    named = tuple(str(module) for module in modules)
    found: dict[str, object] = {
        "global_batch": work.get("batch"),
        "seq": work.get("seq"),
        "dtype": row.get("dtype") or work.get("dtype") or formats.get("dtype"),
        "grad_dtype": work.get("gradients_dtype") or gradient,
        **{name: stack.get(name) for name in switches.SWITCH_NAMES},
        "recompute_modules": named if row.get("recompute") == "selective" else None,
        "overlap_experts": bool(stack.get("overlap_experts")) and _pairs(row, named),
    }
    if _whole(row, "pp", 1) > 1:
        found["schedule"] = stack.get("schedule")
    if _whole(row, "tp", 1) == 1:
        found["overlap"] = "none"
    return found


def _serving_of(row: Mapping[str, object], work: Mapping[str, object]) -> dict[str, object]:
    """Formats, drafts, lengths and requests of a deployment."""
    found: dict[str, object] = {k: work.get(k) for k in ("dtype", "chunk")}
    found |= {"weight_dtype": work.get("weights_dtype"), "kv_dtype": work.get("kv_cache_dtype")}
    if work.get("draft_tokens"):
        found |= {"draft_tokens": work["draft_tokens"], "draft_cost": str(work.get("draft_cost"))}
    isl, osl = work.get("isl"), work.get("osl")
    longest = isl + osl if isinstance(isl, int) and isinstance(osl, int) else None
    found["max_len"] = work.get("max_model_len") or longest or work.get("context")
    found["memory_share"] = work.get("gpu_memory_utilization")
    batch = work.get("batch")
    found["concurrency"] = row.get("concurrency") or work.get("concurrency")
    if found["concurrency"] is None and isinstance(batch, int):
        found["concurrency"] = batch * _whole(row, "dp", 1)  # of each replica
    return found | {"overlap": "none", "placement": None, "recompute": "none"}


def _pairs(row: Mapping[str, object], modules: tuple[str, ...]) -> bool:
    """Whether the layout can run the exchange of tokens beside another microbatch's compute."""
    import numpy as np

    from meshwise.axes import RECOMPUTE_CODE
    from meshwise.layouts.layout import Layouts
    from meshwise.layouts.rules.case import exchange_pairs

    degrees = {name: np.int64(_whole(row, name, 1)) for name in ("tp", "pp", "vp", "ep")}
    mode = np.int64(RECOMPUTE_CODE.get(str(row.get("recompute")), 0))
    return bool(exchange_pairs(Layouts(**degrees, recompute=mode), modules))
