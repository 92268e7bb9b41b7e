"""Command lines over every kind of architecture that need no other's answer: what the walk asks, for
tools/golden.py, which compares two versions' answers to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import walk

from meshwise import catalog
from meshwise.cost.collectives.algorithms import OPS
from meshwise.launch.table import target
from meshwise.launch.targets import target_names

WRITTEN = ("llama-3.1-8b", "mixtral-8x7b")  # whose launch commands are read again
STACKED = ("llama-3.1-8b", "deepseek-v2-lite")
TITLES = ("models", "devices", "fabrics", "clusters", "stacks")
ILLEGAL = ("llama-3.1-8b", "falcon-7b", "mixtral-8x7b", "deepseek-v2-lite")
FORBIDDEN = (
    *(("--tp", "7"), ("--tp", "64"), ("--pp", "100"), ("--pp", "7", "--dp", "3"), ("--cp", "3")),
    *(("--ep", "3"), ("--ep", "16"), ("--ep", "2", "--etp", "3"), ("--dp", "1000")),
    *(("--pp", "4", "--vp", "3"), ("--vp", "2"), ("--tp", "4", "--dcp", "3")),
    ("--tp", "2", "--ep", "4", "--dp", "2", "--etp", "2"),
)
Line = tuple[str, ...]


def of_kinds(folder: Path) -> Iterator[Line]:
    """The smallest model of each kind through every command; clusters by turns, estimates on both."""
    for place, names in enumerate(walk.kinds(folder).values()):
        case = walk.Case(names[0], walk.CLUSTERS[place % 2])
        yield from of_case(case)
        yield from estimates(walk.Case(names[0], walk.CLUSTERS[1 - place % 2]))


def estimates(case: walk.Case) -> Iterator[Line]:
    for phase, options in walk.PHASES.items():
        yield case.asked("estimate", *case.grid(phase), *options)


def of_case(case: walk.Case) -> Iterator[Line]:
    yield "model", case.model
    yield from estimates(case)
    for phase, options in walk.PHASES.items():
        yield case.asked("scale", *options)
        yield case.asked("explain", *case.grid(phase), *options)
    degrees = ("--tp", case.two_degrees())
    yield case.asked("scale", *walk.TOKEN, *degrees)
    yield case.asked("scale", *walk.TOKEN, *degrees, "--sweep", "batch=1,4")
    gpus, plan = case.trained()
    yield plan
    yield (*case.served(), "--top", "2")
    if case.cluster == walk.CLUSTERS[0]:  # the two that take longest: by turns
        yield case.apart()
    else:
        yield case.asked("scale", "--batch", str(2 * gpus), "--seq", "512", "--gpus", str(gpus))
    yield case.asked("serve", *case.grid("decode"), *walk.LOAD)
    for name in target_names():
        yield case.written(name)


def of_launches() -> Iterator[Line]:
    """Each target's command, written into a file and read from it; ``<`` as a shell has it."""
    for model in WRITTEN:
        case = walk.Case(model, walk.CLUSTERS[0])
        for name in target_names():
            file, phase = f"{name}-{model}.txt", target(name, None).phase
            axes, load, more = ("--tp", "2", "--dp", "2"), walk.LOAD, walk.LOAD
            if phase == "train":
                axes += tuple(case.split(phase, 2))
                load, more = walk.TRAIN, ("--batch", "16", "--seq", "512")
            yield "export", name, model, *axes, *load, "-o", file
            yield "import", "-", "--on", case.cluster, "--model", model, *more, "<", file


def of_plans() -> Iterator[Line]:
    """A plan in a file, and the launch command of its best row."""
    for model in WRITTEN:
        case = walk.Case(model, walk.CLUSTERS[0])
        for file, plan in (("served.json", case.served()), ("trained.json", case.trained()[1])):
            yield (*plan, "--json", "-o", f"{model}-{file}")
            phase = "serve" if file == "served.json" else "train"
            for name in target_names():
                if target(name, None).phase == phase:
                    yield "export", name, "--from", f"{model}-{file}"


def of_illegal() -> Iterator[Line]:
    """Layouts that a rule forbids, and some that one may: the same of every command."""
    for model in ILLEGAL:
        case = walk.Case(model, walk.CLUSTERS[0])
        for axes in FORBIDDEN:
            yield case.asked("estimate", *axes, *walk.TRAIN)
            yield case.asked("estimate", *axes, *walk.TOKEN)
            yield case.asked("serve", *axes, *walk.LOAD)
            yield "export", "megatron-lm", model, *axes, *walk.TRAIN
            yield "export", "vllm", model, *axes, *walk.LOAD


def of_catalog() -> Iterator[Line]:
    """Lists, each stack, each cluster under each collective or one of them, a model under each stack."""
    for title in TITLES:
        yield "catalog", title
    for place, name in enumerate(catalog.names("clusters")):
        for op in OPS if name in walk.CLUSTERS else OPS[place % len(OPS) :][:1]:
            yield "collective", op, "16MiB", "--on", name
    for name in catalog.names("stacks"):
        yield "catalog", "stack", name
        for model in STACKED:
            for options in walk.PHASES.values():
                more = ("--tp", "2", *options, "--stack", name)
                yield walk.Case(model, walk.CLUSTERS[0]).asked("estimate", *more)
