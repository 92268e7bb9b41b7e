"""The command that goes one step further than the one just answered, in its own words.

It asks about the same thing or it is not printed: every option that was typed is carried over, and
where the next command does not know one of them there is no next command.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import NamedTuple

import click

from meshwise.answers.records.attributes import Record, by_attribute
from meshwise.cli.given import Given

ANSWER_TOKENS = 256  # tokens out, where nothing says how many
# how an answer is shown, not what is asked
_SHOWN = {"as_json", "as_csv", "as_parquet", "brief", "detail", "wide", "path", "color", "quiet"}


class Step(NamedTuple):
    """``values`` are the next command's own options, ``spent`` what they take the place of."""

    why: str
    command: str
    values: Mapping[str, object]
    spent: tuple[str, ...] = ()


def after(context: click.Context, record: Callable[[], Mapping[str, object]]) -> str:
    """A sentence with the next command; empty where none follows."""
    said = Given(context.params)
    follow = _STEPS.get(context.info_name or "")
    if follow is None or said.get("ideal") or not said.get("model"):
        return ""
    answer = by_attribute(dict(record()))
    assert isinstance(answer, Record)
    step = follow(said, answer)
    if step is None:
        return ""
    typed = {name for name in said if _typed(context, name)} - _SHOWN - {"model", *step.spent}
    options = _options(step.command)
    if not typed <= set(options):
        return ""
    words = ["meshwise", step.command, str(said["model"])]
    own = {options[name]: value for name, value in step.values.items()}
    carried = {options[name]: said[name] for name in said if name in typed}
    for option, value in {**carried, **own}.items():
        if value is True:
            words.append(option)
        elif value not in (None, False):
            words += [option, str(value)]
    return f"{step.why}: {' '.join(shlex.quote(word) for word in words)}"


def _typed(context: click.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    given = source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
    return given and context.params[name] not in (None, False, ())


def _options(command: str) -> dict[str, str]:
    """A command's parameters and how each is written."""
    from meshwise.cli import cli

    with click.Context(cli) as context:
        found = cli.get_command(context, command)
    assert found is not None
    return {
        p.name: next((o for o in p.opts if o.startswith("--")), p.opts[0])
        for p in found.params
        if p.name is not None and isinstance(p, click.Option)
    }


def _scaled(said: Given, record: Record) -> Step | None:
    if said.get("sweep") or said.get("gpus"):
        return None
    work, limit = record["workload"], record["limit"]["tp"]
    curve = ("tp", "limit_threshold", "objective", "phase", "batch", "seq", "context")
    if said["phase"] != "train":
        from meshwise.models.load import load_model

        fitting = [p["tp"] for p in record["points"] if p["fits"]]
        degree = next((tp for tp in fitting if tp >= limit), None)
        if degree is None:
            return None
        held = work["context"] if said["phase"] == "decode" else work["seq"]
        held -= work.get("image_tokens", 0)  # which the option adds again
        most = load_model(str(said["model"])).max_positions
        if most is not None:  # no server takes more
            held = min(held, most - ANSWER_TOKENS - work.get("image_tokens", 0))
        if held < 1:
            return None
        load = {"tp": degree, "isl": held, "osl": ANSWER_TOKENS, "concurrency": work["batch"]}
        return Step("Under a load of requests", "serve", load, curve)
    node, most = record["cluster"]["levels"][0]["ranks"], record["cluster"]["devices"]
    fit = record["smallest_fit"]
    needed = max(limit, fit["devices"] if fit else most + 1)
    gpus = -(-needed // node) * node
    if gpus > most:
        return None
    asked = {"gpus": gpus, "batch": work["batch"], "seq": work["seq"]}
    return Step("Which mesh to run", "plan", asked, (*curve, "micro_batch", "recompute"))


_PINS = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "micro_batch", "recompute", "shard")
_SWITCHES = ("sequence_parallel", "overlap")


def _estimated(said: Given, record: Record) -> Step | None:
    if not record.get("fits"):  # a curve has no layout to better either
        spent = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "dcp", "shard", "placement", "gpus")
        return Step("How many GPUs hold it", "scale", {}, spent)
    if said["phase"] != "train":
        return Step("Where the time goes", "explain", {})
    work = record["workload"]
    asked = {"gpus": record["devices"], "batch": work["batch"], "seq": work["seq"]}
    free = (*_PINS, *_SWITCHES, "placement", "batch", "seq", "phase", "gpus")
    return Step("The best layout of as many GPUs", "plan", asked, free)


def _served(said: Given, record: Record) -> Step | None:
    if not record.get("fits"):  # a curve has no layout to better either
        return None
    spent = ("tp", "pp", "dp", "ep", "etp", "dcp", "gpus")
    return Step("The best layout of as many GPUs", "plan", {"gpus": record["devices"]}, spent)


_SEARCH = (*_PINS, *_SWITCHES, "placement", "gpus", "top", "compare")


def _planned(said: Given, record: Record) -> Step | None:
    best = record["best"]
    if best is None or record.get("partial"):
        return None
    if record["workload"]["phase"] == "serve":
        keys = ("tp", "pp", "dp", "ep", "etp", "dcp")
        asked = {k: best[k] for k in keys if best[k] > 1 or k == "tp"}
        asked |= _load_of(record, best)
        if best["etp"] != best["tp"] // best["ep"]:
            asked |= {"ep": best["ep"], "etp": best["etp"]}
        elif best["ep"] == 1:
            asked.pop("etp", None)
        load = "concurrency" if "concurrency" in asked else "request_rate"
        spent = (*_SEARCH, "dcp", "disaggregated", "objective", load)
        return Step("The best one in full", "serve", asked | _nodes(said, best), spent)
    degrees = ("tp", "pp", "vp", "dp", "cp", "ep")
    asked = {k: best[k] for k in degrees if best[k] > 1 or k == "tp"}
    if best["ep"] > 1:
        asked["etp"] = best["etp"]
    for key, usual in (("shard", "none"), ("recompute", "none"), ("placement", "tp-cp-dp-pp")):
        if best[key] != usual:
            asked[key] = best[key]
    if best["overlap"] not in ("none", None):
        asked["overlap"] = best["overlap"]
    if best["sequence_parallel"]:
        asked["sequence_parallel"] = True
    asked |= {"batch": said["batch"], "seq": said["seq"], "micro_batch": best["micro_batch"]}
    asked |= _nodes(said, best)
    return Step("The best one in full", "estimate", asked, (*_SEARCH, "price", "objective"))


def _load_of(record: Record, best: Record) -> dict[str, object]:
    """The requests in flight of a plan's best layout, or the rate at which they arrive."""
    if record["workload"]["arrivals"] is None:
        return {"concurrency": best["concurrency"]}
    from meshwise.simulate.loads.arrivals import is_trace

    if is_trace(record["workload"]["arrivals"]) or best["request_rate"] is None:
        return {}
    return {"request_rate": f"{best['request_rate']:g}"}


def _nodes(said: Given, best: Record) -> dict[str, int]:
    """As many nodes as the plan let the cluster grow to."""
    from meshwise.clusters.load import load_cluster

    given = said.get("nodes")
    own = load_cluster(str(said["cluster"]), nodes=None if given is None else int(str(given)))
    if best["devices"] <= own.devices:
        return {}
    return {"nodes": -(-best["devices"] // own.node_devices)}


def _described(said: Given, record: Record) -> Step:
    asked = {"cluster": "hgx-h100", "batch": 8, "seq": 2048}
    return Step("How far it scales", "scale", asked)


_STEPS: dict[str, Callable[[Given, Record], Step | None]] = {
    "scale": _scaled,
    "estimate": _estimated,
    "serve": _served,
    "plan": _planned,
    "model": _described,
}
