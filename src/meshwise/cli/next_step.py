"""The command that goes one step further than the one just answered, with its own words."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
HERE = ("nodes", "nics", "stack")
FORMATS = ("dtype", "weight_dtype", "kv_dtype")
ANSWER = 256  # tokens out, where nothing says how many


def after(name: str | None, said: Record, record: Callable[[], Record]) -> str:
    """A sentence with the next command; empty where none follows. ``said``: the options as typed."""
    follow = _STEPS.get(name or "")
    if follow is None or said.get("ideal") or not said.get("model"):
        return ""
    found = follow(said, record())
    if found is None:
        return ""
    why, command = found
    return f"{why}: {command}"


def _line(command: str, said: Record, *names: str, **values: Any) -> str:
    """``meshwise COMMAND MODEL --on CLUSTER …``: options as they were typed, then further ones."""
    words = ["meshwise", command, str(said["model"])]
    if said.get("cluster"):
        words += ["--on", str(said["cluster"])]
    for name in names:
        value = said.get(name)
        if value is True:
            words.append(_option(name))
        elif value not in (None, False):
            words += [_option(name), str(value)]
    for name, value in values.items():
        words += [_option(name), str(value)]
    return " ".join(shlex.quote(word) for word in words)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _scaled(said: Record, record: Record) -> tuple[str, str] | None:
    if said.get("sweep") or said.get("gpus"):
        return None
    work, limit = record["workload"], record["limit"]["tp"]
    if said["phase"] != "train":
        degree = next((p["tp"] for p in record["points"] if p["fits"] and p["tp"] >= limit), None)
        if degree is None:
            return None
        held = work["context"] if said["phase"] == "decode" else work["seq"]
        load = {"isl": held, "osl": ANSWER, "concurrency": work["batch"]}
        command = _line("serve", said, *HERE, *FORMATS, tp=degree, **load)
        return "Under a load of requests", command
    node = record["cluster"]["levels"][0]["ranks"]
    fit = record["smallest_fit"]
    needed = max(limit, fit["devices"] if fit else 0)
    gpus = min(-(-needed // node) * node, record["cluster"]["devices"])
    names = (*HERE, "dtype", "grad_dtype")
    batch = {"gpus": gpus, "global_batch": work["batch"], "seq": work["seq"]}
    return "Which mesh to run", _line("plan", said, *names, **batch)


def _estimated(said: Record, record: Record) -> tuple[str, str]:
    if said["phase"] != "train":
        same = ("tp", "pp", "dp", "ep", "phase", "batch", "seq", "context")
        degrees = [name for name in same if str(said.get(name)) != "1" or name == "tp"]
        return "Where the time goes", _line("explain", said, *HERE, *FORMATS, *degrees)
    work = record["workload"]
    batch = {"gpus": record["devices"], "global_batch": work["batch"], "seq": work["seq"]}
    command = _line("plan", said, *HERE, "dtype", "grad_dtype", **batch)
    return "The best layout of as many GPUs", command


def _served(said: Record, record: Record) -> tuple[str, str]:
    names = (*HERE, *FORMATS, "isl", "osl", "concurrency")
    return "The best layout of as many GPUs", _line("plan", said, *names, gpus=record["devices"])


def _planned(said: Record, record: Record) -> tuple[str, str] | None:
    best = record["best"]
    if best is None or len(record["layouts"][0].get("variant", {})) > 0:
        return None
    if said.get("isl") is not None:
        if said.get("concurrency") is None and not best.get("concurrency"):
            return None
        degrees = {k: best[k] for k in ("tp", "pp", "dp", "ep") if best[k] > 1 or k == "tp"}
        if best["ep"] > 1:
            degrees["etp"] = best["etp"]
        names = (*HERE, *FORMATS, "isl", "osl")
        command = _line("serve", said, *names, **degrees, concurrency=best["concurrency"])
        return "The best one in full", command
    keys = ("tp", "pp", "vp", "dp", "cp", "ep")
    degrees = {k: best[k] for k in keys if best[k] > 1 or k == "tp"}
    if best["ep"] > 1:
        degrees["etp"] = best["etp"]
    for key, usual in (("shard", "none"), ("recompute", "none"), ("placement", "tp-cp-dp-pp")):
        if best[key] != usual:
            degrees[key] = best[key]
    if best["overlap"] not in ("none", None):
        degrees["overlap"] = best["overlap"]
    work = {"batch": said["batch"], "seq": said["seq"], "micro_batch": best["micro_batch"]}
    command = _line("estimate", said, *HERE, "dtype", "grad_dtype", **degrees, **work)
    if best["sequence_parallel"]:
        command += " --sequence-parallel"
    return "The best one in full", command


def _described(said: Record, record: Record) -> tuple[str, str]:
    return "How far it scales", _line("scale", said, on="hgx-h100", batch=8, seq=2048)


_STEPS: dict[str, Callable[[Record, Record], tuple[str, str] | None]] = {
    "scale": _scaled,
    "estimate": _estimated,
    "serve": _served,
    "plan": _planned,
    "model": _described,
}
