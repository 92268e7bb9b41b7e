"""Random combinations of model, cluster, stack and options: an answer or one line, with figures that
are figures and sums that add up."""

from __future__ import annotations

import contextlib
import os

import walk
from contract import Refused, ask, page
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from meshwise import catalog

MANY = bool(os.environ.get("MESHWISE_MATRIX"))  # make matrix
SEED = os.environ.get("MESHWISE_SEED")  # others than those that every run draws
SETTINGS = settings(max_examples=2000 if MANY else 40, deadline=None, derandomize=not SEED)
MODELS = st.sampled_from(walk.presets())
CLUSTERS = st.sampled_from(catalog.names("clusters"))
STACKS = st.sampled_from([*catalog.names("stacks"), None])
POWER = st.sampled_from([1, 2, 4, 8, 16])
COMMON = {
    "--dtype": st.sampled_from(["bf16", "fp16", "fp8"]),
    "--comm-dtype": st.sampled_from(["bf16", "fp8"]),
    "--overlap": st.sampled_from(["none", "split", "decomposed"]),
    "--attention": st.sampled_from(["flash", "unfused"]),
}
TRAINING = COMMON | {
    "--recompute": st.sampled_from(["none", "selective", "full"]),
    "--shard": st.sampled_from(["none", "zero1", "zero2", "zero3"]),
    "--schedule": st.sampled_from(["1f1b", "gpipe", "zb-1p", "zb-2p"]),
    "--grad-dtype": st.sampled_from(["bf16", "fp32"]),
    "--cp": st.sampled_from([1, 2]),
    "--vp": st.sampled_from([1, 2]),
    "--sequence-parallel": st.just(None),
}
SERVING = COMMON | {
    "--weight-dtype": st.sampled_from(["bf16", "fp8", "int8", "int4"]),
    "--kv-dtype": st.sampled_from(["bf16", "fp8"]),
}


drawn = seed(int(SEED)) if SEED else lambda test: test


def words(options: dict[str, object]) -> list[str]:
    found = []
    for name, value in options.items():
        found += [name] if value is None else [name, str(value)]
    return found


def some(table: dict[str, st.SearchStrategy[object]]) -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries({}, optional=table)


def keeps(argv: list[str]) -> None:
    """The contract, as JSON and as text."""
    with contextlib.suppress(Refused):
        ask(*argv)
    page(*argv)


@drawn
@SETTINGS
@given(st.data(), MODELS, CLUSTERS, STACKS)
def test_a_layout(data: st.DataObject, model: str, cluster: str, stack: str | None) -> None:
    phase = data.draw(st.sampled_from(["train", "prefill", "decode"]))
    table = dict(TRAINING if phase == "train" else SERVING)
    if phase == "prefill":
        table["--sequence-parallel"] = st.just(None)
    command = data.draw(st.sampled_from(["estimate", "explain"]))
    options: dict[str, object] = {"--phase": phase} | data.draw(some(table))
    if phase == "prefill":
        options.pop("--kv-dtype", None)
    for name in ("--tp", "--pp", "--dp", "--ep"):
        options[name] = data.draw(POWER)
    options["--batch"] = data.draw(st.sampled_from([1, 16, 64]))
    options["--context" if phase == "decode" else "--seq"] = data.draw(st.sampled_from([64, 4096]))
    if stack is not None:
        options["--stack"] = stack
    keeps([command, model, "--on", cluster, *words(options)])


@drawn
@SETTINGS
@given(st.data(), MODELS, CLUSTERS, STACKS)
def test_a_deployment(data: st.DataObject, model: str, cluster: str, stack: str | None) -> None:
    options = data.draw(some(SERVING | {"--chunk": st.sampled_from([256, 8192])}))
    for name in ("--tp", "--pp", "--dp", "--ep"):
        options[name] = data.draw(POWER)
    options |= {"--isl": 512, "--osl": data.draw(st.sampled_from([1, 128]))}
    options["--concurrency"] = data.draw(st.sampled_from([1, 16, 1000]))
    if stack is not None:
        options["--stack"] = stack
    keeps(["serve", model, "--on", cluster, *words(options)])


@drawn
@settings(SETTINGS, max_examples=SETTINGS.max_examples // 10)
@given(st.data(), MODELS, CLUSTERS, STACKS)
def test_a_search(data: st.DataObject, model: str, cluster: str, stack: str | None) -> None:
    serves = data.draw(st.booleans())
    options: dict[str, object] = {"--gpus": data.draw(POWER)}
    if serves:
        options |= {"--isl": 512, "--osl": 64, "--concurrency": data.draw(POWER)}
    else:
        options |= {"--global-batch": 32, "--seq": 512}
    if stack is not None:
        options["--stack"] = stack
    keeps(["plan", model, "--on", cluster, *words(options)])


@drawn
@settings(SETTINGS, max_examples=SETTINGS.max_examples // 5)
@given(st.data(), MODELS, CLUSTERS, STACKS)
def test_a_curve(data: st.DataObject, model: str, cluster: str, stack: str | None) -> None:
    phase = data.draw(st.sampled_from(["train", "prefill", "decode"]))
    length = "--context" if phase == "decode" else "--seq"
    options: dict[str, object] = {"--phase": phase, "--batch": data.draw(POWER), length: 256}
    options |= data.draw(some(COMMON))
    if stack is not None:
        options["--stack"] = stack
    keeps(["scale", model, "--on", cluster, *words(options)])
