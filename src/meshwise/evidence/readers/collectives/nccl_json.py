"""Reads the JSON that nccl-tests writes (``-J FILE``): one object per run, with its devices and results."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from meshwise.cost.collectives.collective import known_operation
from meshwise.evidence.readers.collectives.nccl_log import nccl_version
from meshwise.evidence.readers.collectives.run import (
    TELLING,
    TYPE_BYTES,
    CollectiveRun,
    Listed,
    SizeFigures,
    rows_of_run,
)
from meshwise.evidence.readers.documents import JsonObject, list_at, number_at, text_at
from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    RefusedLine,
    count_or_none,
    positive,
)

_FORM = "nccl-tests"
_PROGRAM = re.compile(r"(\w+_perf)(?:_mpi)?")


def claims_nccl(content: dict[str, Any]) -> bool:
    """Whether an object is a run of nccl-tests."""
    return isinstance(content.get("results"), list) and isinstance(content.get("config"), dict)


def read_nccl(objects: list[JsonObject]) -> FileFound:
    """The figures of runs."""
    rows, refused = list[FileRow](), list[RefusedLine]()
    for line, content in objects:
        run = _run(line, content)
        good, bad = rows_of_run(run)
        rows += good
        refused += bad
        if not content["results"]:
            refused.append(RefusedLine(line, "results of at least one size expected"))
    return FileFound("collectives", _FORM, rows, refused)


def _run(line: int, content: dict[str, Any]) -> CollectiveRun:
    run = CollectiveRun(graph=bool(count_or_none(number_at(content, "config", "graph"))))
    for word in list_at(content, "args"):
        program = _PROGRAM.fullmatch(PurePath(str(word)).name)
        if program:
            run.stated = known_operation(program[1]) or program[1]
    code = count_or_none(content.get("nccl_version"))
    run.library = f"nccl-{nccl_version(code)}" if code else ""
    _list_ranks(run, line, content["config"])
    for result in content["results"]:
        found = _figures(line, result)
        if isinstance(found, SizeFigures):
            run.rows.append(found)
        elif found is not None:
            run.refused.append(RefusedLine(line, found))
    return run


def _list_ranks(run: CollectiveRun, line: int, config: dict[str, Any]) -> None:
    """Where the ranks ran. A process with several devices is listed by its first one alone."""
    devices = [d for d in list_at(config, "devices") if isinstance(d, dict)]
    each = (count_or_none(config.get("nthreads")) or 1) * (count_or_none(config.get("ngpus")) or 1)
    firsts = [d.get("rank") for d in devices]
    several = firsts == [each * i for i in range(len(devices))]
    for d in devices:
        rank = d.get("rank")
        if not isinstance(rank, int) or isinstance(rank, bool):
            continue
        name, host = text_at(d, "device_info") or "", text_at(d, "hostname") or ""
        first = d["device"] if isinstance(d.get("device"), int) else 0
        process = d["pid"] if isinstance(d.get("pid"), int) else 0
        for i in range(each if several else 1):
            run.listed[rank + i] = Listed(process, host, first + i, name, line)


def _figures(line: int, result: object) -> SizeFigures | str | None:
    """One size; in words what is wrong with it; None where its size is 0."""
    out, size = number_at(result, "out_of_place"), number_at(result, "size")
    if size == 0:
        return None
    if not isinstance(out, dict):
        return "out_of_place figures expected"
    if "cpu_time" in out and "time" not in out:
        return "the collective's time expected, found the host's (cpu_time)"
    found = {
        "size": positive(size, "size"),
        "count": positive(number_at(result, "count"), "count"),
        "time": positive(out.get("time"), "out_of_place time"),
    }
    wrong = next((why for why in found.values() if isinstance(why, str)), None)
    dtype = text_at(result, "type") or ""
    if wrong is not None or dtype not in TYPE_BYTES:
        return wrong or f"a type of nccl-tests expected, found {dtype!r}"
    bytes_, count, time = (v for v in found.values() if isinstance(v, float))
    algbw, busbw = out.get("alg_bw"), out.get("bus_bw")
    factor = None
    if isinstance(algbw, float) and isinstance(busbw, float) and algbw >= TELLING:
        factor = busbw / algbw
        if abs(algbw / (bytes_ / time * 1e-3) - 1.0) > 0.02:
            return f"alg_bw = size / time expected, found {algbw:g}"
    root = (text_at(result, "root") or "").lstrip("-")
    rooted = (
        int(root) * (-1 if "-" in str(number_at(result, "root")) else 1) if root.isdigit() else None
    )
    reduction = text_at(result, "redop")
    return SizeFigures(line, bytes_, count, dtype, time * 1e-6, factor, reduction, rooted)
