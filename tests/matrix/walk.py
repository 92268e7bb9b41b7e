"""Every command that takes a model, for one model on one cluster, and what they must say alike."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from contract import Refused, ask, ask_and_read, page

import meshwise as mw
from meshwise import launch
from meshwise.errors import MeshwiseError
from meshwise.launch.table import target
from meshwise.launch.targets import target_names
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.rules.case import needs_split
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import DEFAULT

CLUSTERS = ("hgx-h100", "l40s-8x")  # NVLink in nodes of 8 over InfiniBand; PCIe, two sockets
TRAIN = ("--batch", "16", "--seq", "512", "--micro-batch", "1")
PROMPT = ("--phase", "prefill", "--batch", "2", "--seq", "512")
TOKEN = ("--phase", "decode", "--batch", "4", "--context", "512")
LOAD = ("--isl", "512", "--osl", "64", "--concurrency", "8")
LIMITS = ("--isl", "512", "--osl", "64", "--ttft", "20s", "--tpot", "1s")
PHASES = {"train": TRAIN, "prefill": PROMPT, "decode": TOKEN}
DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp")
Step = Callable[["Case"], None]


class Case(NamedTuple):
    """A model (a preset's name or a file) on a cluster."""

    model: str
    cluster: str

    @property
    def spec(self) -> mw.Model:
        return mw.model(self.model)

    def asked(self, command: str, *options: str) -> tuple[str, ...]:
        return (command, self.model, "--on", self.cluster, *options)

    def grid(self, phase: str, stack: str | None = None) -> list[str]:
        """Options of a layout of up to 8 GPUs that uses every axis that the model has; TP as that
        software cuts it (a stack's name; the phase's default where none is said)."""
        spec = self.spec
        legal = legality.legal_tp(spec, load_stack(stack or DEFAULT[phase]))
        tp = max(t for t in legal if t <= 2)
        options = ["--tp", str(tp), "--dp", "2"]
        if spec.layers > 1 and phase != "decode":
            options += ["--pp", "2"]
        experts = [b.moe.experts for b in spec.blocks if b.moe is not None]
        if experts and all(n % 2 == 0 for n in experts):
            # engines keep experts whole on all ranks of a group, or split them over all
            options += ["--ep", "2", "--etp", str(tp) if phase == "train" else "1"]
        return options + self.split(phase, tp)

    def split(self, phase: str, tp: int) -> list[str]:
        """Sequence parallelism, where the software trains the model's experts with it only."""
        needed = needs_split(self.spec, load_stack(DEFAULT[phase]), phase)
        return ["--sequence-parallel"] if needed and tp > 1 else []

    # -- questions that several commands and tools/golden.py ask --

    @property
    def phases(self) -> dict[str, tuple[str, ...]]:
        """The phases that are priced, with their options: training of shared layers is refused."""
        shared = any(block.shared for block in self.spec.blocks)
        return {phase: o for phase, o in PHASES.items() if phase != "train" or not shared}

    def two_degrees(self) -> str:
        legal = legality.legal_tp(self.spec, load_stack(DEFAULT["train"]))
        return ",".join(str(t) for t in legal[:2])

    def trained(self) -> tuple[int, tuple[str, ...]]:
        """GPUs that train the model, and the plan for them."""
        gpus = gpus_for(self, 8.0 if self.cluster != CLUSTERS[0] else 18.0)
        asked = ("--global-batch", str(2 * gpus), "--seq", "512", "--gpus", str(gpus), "--top", "3")
        return gpus, self.asked("plan", *asked)

    def served(self) -> tuple[str, ...]:
        return self.asked("plan", *LOAD, "--gpus", str(gpus_for(self, 1.5)))

    def apart(self) -> tuple[str, ...]:
        gpus = max(4, gpus_for(self, 2.5))
        return self.asked("plan", *LIMITS, "--gpus", str(gpus), "--disaggregated")

    def written(self, name: str) -> tuple[str, ...]:
        """The launch command of a target."""
        load = LOAD if target(name, None).phase == "serve" else TRAIN
        return ("export", name, self.model, *self.grid_of(name), *load)

    def grid_of(self, name: str) -> list[str]:
        """A layout that the target's own software cuts the model into."""
        written = target(name, None)
        return self.grid("decode" if written.phase == "serve" else "train", written.stack)


def failures(case: Case, steps: dict[str, Step]) -> list[str]:
    """What goes wrong, one line per step, with its place."""
    found = []
    for name, step in steps.items():
        try:
            step(case)
        except Refused as refused:
            found.append(f"{name}: refused: {refused}")
        except Exception as error:  # every step is to be tried
            found.append(f"{name}: {type(error).__name__}: {error}"[:2000])
    return found


# -- a command each --------------------------------------------------------------------------------


def model(case: Case) -> None:
    record = ask_and_read("model", case.model)
    assert record["parameters"] >= record["active_parameters"] > 0


def scale(case: Case) -> None:
    """Its points are what ``estimate`` says of the same layout."""
    for phase, options in case.phases.items():
        record = ask_and_read(*case.asked("scale", *options))
        assert record["points"][0]["tp"] == 1
        point = record["points"][min(1, len(record["points"]) - 1)]
        tp = ["--tp", str(point["tp"]), *case.split(phase, point["tp"])]
        alone = ask(*case.asked("estimate", *tp, *options))
        alike(point, alone, ("step_s", "compute_s", "exposed_comm_s", "memory_bytes", "fits"))
        if phase == "decode":
            ask(*case.asked("scale", *options, "--ideal"))


def sweep(case: Case) -> None:
    degrees = case.two_degrees()
    base = {p["tp"]: p for p in ask(*case.asked("scale", *TOKEN, "--tp", degrees))["points"]}
    record = ask(*case.asked("scale", *TOKEN, "--tp", degrees, "--sweep", "batch=1,4"))
    for row in record["rows"]:
        if row["value"] == 4:
            alike(row, base[row["tp"]], ("step_s", "memory_bytes", "fits"))
    first = next(iter(case.phases.values()))
    page(*case.asked("scale", *first, "--tp", degrees, "--sweep", "intra.latency=1us,10us"))


def estimate(case: Case) -> None:
    for phase, options in case.phases.items():
        record = ask_and_read(*case.asked("estimate", *case.grid(phase), *options))
        assert record["step_s"] > 0


def explain(case: Case) -> None:
    """Its operations take as long as its layout's parts."""
    for phase, options in case.phases.items():
        grid = case.grid(phase)
        record = ask_and_read(*case.asked("explain", *grid, *options))
        whole = ask(*case.asked("estimate", *grid, *options))
        alike(record, whole, ("step_s", "layout"))
        spent = math.fsum(o["time_s"] * o["count"] for o in record["operations"] if not o["group"])
        assert math.isclose(spent, whole["compute_s"], rel_tol=1e-9), (spent, whole["compute_s"])


def plan(case: Case) -> None:
    """Its rows are what ``estimate`` says of them; ``scale --gpus`` has its best row."""
    gpus, asked = case.trained()
    if "train" not in case.phases:
        try:
            ask(*asked)
        except Refused as refused:
            assert "share their weights" in str(refused)
            return
        raise AssertionError("training of shared layers is priced")
    record = ask_and_read(*asked)
    for row in record["layouts"]:
        alone = as_estimate(case, row, ("--batch", str(2 * gpus), "--seq", "512"))
        if alone is not None:
            alike(row, alone, ("step_s", "compute_s", "bubble_s", "memory_bytes", "fits", "mfu"))
    grown = ask(*case.asked("scale", "--batch", str(2 * gpus), "--seq", "512", "--gpus", str(gpus)))
    best, point = record["best"], grown["points"][0]
    assert point["feasible"] == (best is not None)
    if best is not None:
        alike(point, best, ("step_s", "memory_bytes", *DEGREES))


def serve(case: Case) -> None:
    """One price of a deployment, asked for or found."""
    record = ask_and_read(*case.served(), "--top", "2")
    for row in record["layouts"]:
        if row["dcp"] > 1:
            continue
        degrees = [w for n in ("tp", "pp", "dp", "ep", "etp") for w in (f"--{n}", str(row[n]))]
        alone = ask(*case.asked("serve", *degrees, *LOAD))
        alike(row, alone, ("memory_bytes", "max_concurrency", "fits"))
        alike(
            row,
            alone if row["simulated"] else alone["averages"],
            ("tpot_s", "ttft_s", "tokens_per_s"),
        )
    try:
        ask(*case.asked("serve", *(w for w in case.grid("decode")), *LOAD))
    except Refused as refused:  # the weights of a large model leave no room for a request
        assert "fit" in str(refused) or "room" in str(refused), refused


def disaggregated(case: Case) -> None:
    """Pools of their own, where two instances of the model fit; else the plan without them."""
    ask(*case.apart())


def exported(case: Case) -> None:
    """The command of each target says the layout, or lists what it leaves out; read again, it is the
    same."""
    for name in target_names():
        phase = target(name, None).phase
        grid = case.grid_of(name)
        try:
            record = ask(*case.written(name))
        except Refused as refused:
            assert "cannot run" in str(refused), refused
            continue
        degrees = [word for word in grid if word != "--sequence-parallel"]
        said = dict(zip(degrees[::2], map(int, degrees[1::2]), strict=True))
        routed = any(b.moe is not None for b in case.spec.blocks)
        gpus = (
            None
            if phase == "serve"
            else math.prod(said.get(f"--{n}", 1) for n in ("tp", "pp", "dp"))
        )
        back = launch.parse(record["text"], gpus=gpus, model=case.model, experts=routed)
        assert back.target == name
        for axis in ("tp", "pp", "dp", "ep"):
            mine, theirs = said.get(f"--{axis}", 1), getattr(back.job, axis)
            if axis == "dp" and mine != theirs:  # one of several servers
                mine //= record["servers"]
            assert mine == theirs or axis in record["untranslated"], (name, axis, mine, theirs)


STEPS: dict[str, Step] = {
    f.__name__: f
    for f in (model, scale, sweep, estimate, explain, plan, serve, disaggregated, exported)
}


# -- what they share -------------------------------------------------------------------------------


def alike(one: dict[str, Any], other: dict[str, Any], names: tuple[str, ...]) -> None:
    """Two commands' figures of one layout are one figure."""
    for name in names:
        a, b = one[name], other[name]
        same = math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) else a == b
        assert same, f"{name}: {a} and {b}"


def gpus_for(case: Case, bytes_per_weight: float) -> int:
    """GPUs (a power of two, as many as the cluster has at most) whose memory holds the model."""
    where = mw.cluster(case.cluster)
    need = mw.describe(case.spec).to_dict()["parameters"] * bytes_per_weight
    gpus = 8
    while gpus < where.devices and gpus * 0.5 * where.device.memory_bytes < need:
        gpus *= 2
    return min(gpus, where.devices)


def as_estimate(case: Case, row: dict[str, Any], load: tuple[str, ...]) -> dict[str, Any] | None:
    """``estimate`` of a plan's row; None where it has no option for what the row has."""
    if row["placement"] != "tp-cp-dp-pp":
        return None
    words = [w for n in (*DEGREES, "micro_batch") for w in (_option(n), str(row[n]))]
    words += ["--recompute", row["recompute"], "--shard", row["shard"]]
    # "none" of estimate also turns off what the stack overlaps by itself
    words += ["--overlap", row["overlap"]] if row["overlap"] != "none" else []
    words += ["--sequence-parallel"] if row["sequence_parallel"] else []
    return ask(*case.asked("estimate", *words, *load))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# -- which models ----------------------------------------------------------------------------------


def presets() -> list[str]:
    from meshwise import catalog

    return catalog.names("models")


def configs(folder: Path) -> Iterator[str]:
    """Files of a folder whose index expects an answer."""
    import csv

    with (folder / "index.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["expected"] == "ok":
                yield str(folder / row["file"])


def kind(name: str) -> str:
    """What a model is made of, as far as the program branches on it."""
    spec = mw.model(name)
    blocks = spec.blocks
    heads = [b.attention for b in blocks if b.attention is not None]
    q = spec.quantization
    parts = [
        "mla" if any(a.mla for a in heads) else _heads(heads),
        "moe" if any(b.moe for b in blocks) else "dense",
        "mixed" if len({(b.moe is None, b.mlp is None) for b in blocks}) > 1 else "",
        "recurrent" if any(b.recurrent for b in blocks) else "",
        "reused" if any(b.shared for b in blocks) else "",
        "no-attention" if any(b.attention is None for b in blocks) else "",
        "shared" if any(b.moe and b.moe.shared for b in blocks) else "",
        "sliding" if any(a.window for a in heads) else "",
        "sinks" if any(a.sinks for a in heads) else "",
        "indexer" if any(a.indexer for a in heads) else "",
        "parallel" if any(b.parallel for b in blocks) else "",
        "tied" if spec.tied else "",
        "narrow" if spec.embedding_dim is not None else "",
        "positions" if spec.positions else "",
        f"{q.method}-{q.weight_dtype}" if q else "",
    ]
    return " ".join(part for part in parts if part)


def _heads(heads: list[Any]) -> str:
    if len({a.kv_heads for a in heads}) > 1:
        return "kv-heads-differ"
    least = heads[0]
    return "mqa" if least.kv_heads == 1 else "mha" if least.kv_heads == least.heads else "gqa"


@functools.cache
def kinds(folder: Path) -> dict[str, list[str]]:
    """Presets and a folder's files by their kind, the smallest first."""
    known: dict[str, list[str]] = {}
    for name in [*presets(), *readable(configs(folder))]:
        known.setdefault(kind(name), []).append(name)
    return {what: sorted(names, key=size) for what, names in known.items()}


@functools.cache
def size(name: str) -> float:
    """Weights, as far as they tell which model is quicker to walk."""
    parameters: float = mw.describe(mw.model(name)).to_dict()["parameters"]
    return parameters


def label(name: str) -> str:
    return re.sub(r"\.json$", "", Path(name).name)


def readable(names: Iterator[str] | list[str]) -> Iterator[str]:
    """Those that the program reads (what it refuses is the readers' own tests' matter)."""
    for name in names:
        try:
            mw.model(name)
        except MeshwiseError:
            continue
        yield name
