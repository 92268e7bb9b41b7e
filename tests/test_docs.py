"""The documentation is what the tool says: blocks run, outputs and tables are current, links lead on."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import meshwise as mw
from meshwise.answers import catalog
from meshwise.cli import COMMANDS, cli
from meshwise.clusters import load as cluster_spec
from meshwise.launch import Job
from meshwise.models.families.config import known_types
from meshwise.models.families.refused import REFUSED_TYPES
from meshwise.stacks.stack import NAMES

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = load(ROOT / "docs" / "generate.py")
PAGES: list[Path] = generate.pages()


def page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_is_current(path: Path) -> None:
    """Every console, pycon and python block runs; what was generated is as it would be now."""
    text = path.read_text(encoding="utf-8")
    now = generate.render(text)
    assert generate.same(text, now), f"run `python docs/generate.py`\n{difference(text, now)}"


def difference(text: str, now: str) -> str:
    import difflib

    lines = difflib.unified_diff(text.splitlines(), now.splitlines(), "written", "now", "", "", 0)
    return "\n".join(list(lines)[:40])


def test_picture_is_current_and_small() -> None:
    written = generate.PICTURE.read_text(encoding="utf-8")
    assert generate.same(written, generate.picture()), "run `python docs/generate.py`"
    assert len(written.encode()) <= 50 * 1024
    assert "http" not in written.replace("http://www.w3.org/2000/svg", "")


def test_a_changed_figure_is_seen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    now = generate.render(text)
    for written, changed in (
        ("ring/simple", "ring/ll"),
        (":.0f-->185<", ":.0f-->184<"),
        ("26.3 s", "26.4 s"),
    ):
        if written in text:  # figures move with the constants
            assert not generate.same(text.replace(written, changed, 1), now)
    assert "ring/simple" in text


# -- the command line ------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    yield "", cli
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


@pytest.mark.parametrize("name, command", list(commands()), ids=lambda v: str(v) or "meshwise")
def test_every_command_and_option_is_in_the_reference(name: str, command: click.Command) -> None:
    title = f"## meshwise {name}".rstrip()
    sections = re.split(r"(?m)^(?=## )", page("cli.md"))
    section = next(s for s in sections if s.split("\n", 1)[0] == title)
    for parameter in command.params:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            assert option.startswith("-") is False or option in section, (name, option)


# -- JSON --------------------------------------------------------------------------------------------


def section(title: str) -> str:
    """A part of json.md, with the parts that several answers share."""
    text = page("json.md")
    parts = {s.split("\n", 1)[0].lstrip("# "): s for s in re.split(r"(?m)^(?=## )", text)}
    return parts[title] + parts["Parts that several answers share"]


def keys(record: Any) -> Iterator[str]:
    if isinstance(record, dict):
        for key, value in record.items():
            yield key
            if key not in (
                "provenance",
                "collectives",
                "weight_bytes",
                "block",
                "stack",
                "memory",
                "pinned",
                "files",
            ):
                yield from keys(value)
    elif isinstance(record, (list, tuple)):
        for item in record:
            yield from keys(item)


MEGATRON = "torchrun --nproc-per-node 8 --nnodes 8 pretrain_gpt.py --tensor-model-parallel-size 8 --micro-batch-size 1"


@functools.cache
def answers() -> dict[str, list[Any]]:
    gpt, dgx, hgx = mw.model("gpt3-175b"), mw.cluster("dgx-a100"), mw.cluster("hgx-h100")
    llama, mix = mw.model("llama-3.1-70b"), mw.model("mixtral-8x7b")
    load = mw.Serving(isl=2048, osl=256, concurrency=32)
    served = mw.plan(
        *(llama, hgx, load),
        gpus=16,
        ttft_s=1.0,
        tpot_s=0.04,
        disaggregated=True,
        price_per_device_hour=2.0,
    )
    full = mw.estimate(gpt, dgx, mw.Training(batch=16, seq=2048), tp=8, pp=8, dp=2, micro_batch=1)
    try:
        mw.model("gpt3-176b")
        raise AssertionError("found")
    except mw.MeshwiseError as error:
        refused = error.to_dict()
    return {
        "scale": [
            mw.scale(gpt, dgx, mw.Training(batch=32, seq=2048)).to_dict(),
            mw.scale(llama, hgx, mw.Decode(batch=8, context=1024)).to_dict(),
        ],
        "estimate": [full.to_dict()],
        "scale --sweep": [
            mw.sweep(gpt, dgx, mw.Training(batch=32, seq=2048), "nics=1:8").to_dict()
        ],
        "scale --gpus": [mw.grow(gpt, dgx, mw.Training(batch=64, seq=2048), [8, 64]).to_dict()],
        "plan": [
            mw.plan(
                mix, hgx, mw.Training(batch=64, seq=4096), gpus=16, price_per_device_hour=2.0
            ).to_dict(),
            mw.plan(gpt, dgx, mw.Training(batch=64, seq=2048), gpus=8).to_dict(),
            served.to_dict(),
            mw.plan(llama, hgx, load, gpus=8, tpot_s=0.001).to_dict(),
        ],
        "export": [mw.export(Job(model="m", phase="serve", tp=2, etp=2), "vllm").to_dict()],
        "import": [
            mw.read_command(
                "vllm serve m -tp 4", hgx, model=llama, isl=512, osl=64, concurrency=8
            ).to_dict(),
            mw.read_command(MEGATRON, dgx, model=gpt, global_batch=64, seq=2048).to_dict(),
        ],
        "explain": [full.explain(), full.to_dict()],
        "model": [mw.describe(mw.model(n)).to_dict() for n in ("deepseek-v3", "gpt2")],
        "collective": [mw.collective("all_reduce", "1MB", hgx, 8).to_dict()],
        "catalog": [catalog.overview(("devices",)), catalog.entry_record("devices", "x", {"a": 1})],
        "Errors": [refused],
    }


TITLES = (
    *("scale", "estimate", "scale --sweep", "scale --gpus", "plan", "export", "import", "explain"),
    *("model", "collective", "catalog", "Errors"),
)


@pytest.mark.parametrize("title", TITLES)
def test_every_json_key_is_in_the_reference(title: str) -> None:
    others = {"explain": ("estimate",), "scale --sweep": ("scale",), "scale --gpus": ("plan",)}
    others |= {
        "plan": ("serve",),
        "import": ("export", "plan", "serve"),
    }  # simulated rows are as its
    text = section(title) + "".join(section(t) for t in others.get(title, ()))
    words = set(re.findall(r"[\w]+", " ".join(re.findall(r"`([^`\n]+)`", text))))
    missing = {k for record in answers()[title] for k in keys(record)} - words
    assert not missing, missing


def test_memory_parts_are_in_the_reference() -> None:
    parts = answers()["estimate"][0]["memory"]
    assert all(f"`{name}`" in section("estimate") for name in parts)


# -- cluster file, stacks, models, catalog -------------------------------------------------------------


def test_every_key_of_a_cluster_file_is_in_the_reference() -> None:
    text = page("cluster-file.md")
    known = [
        *cluster_spec._CLUSTER_KEYS,
        *cluster_spec._LEVEL_KEYS,
        *cluster_spec._DEVICE_KEYS,
        *cluster_spec.FABRIC_KINDS,
        *cluster_spec.PEAK_KEYS,
    ]
    assert [name for name in known if f"`{name}`" not in text] == []


def test_every_switch_of_a_stack_is_in_the_reference() -> None:
    text = page("stacks.md")
    assert all(f"| `{name}` |" in text for name in NAMES)
    assert "`title`" in text and "`ideal`" in text


def test_every_model_type_is_in_the_reference() -> None:
    text = page("models.md")
    assert [name for name in (*known_types(), *REFUSED_TYPES) if f"`{name}`" not in text] == []


# -- pages -----------------------------------------------------------------------------------------------


def links() -> Iterator[tuple[Path, str]]:
    for path in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith(("http", "#")):
                yield path, target


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    lost = []
    for path, target in links():
        file, _, anchor = target.partition("#")
        found = path.parent / file
        if not found.exists():
            lost.append((path.name, target))
        elif anchor:
            text = found.read_text(encoding="utf-8")
            titles = [
                re.sub(r"[^\w -]", "", t.lower()).strip().replace(" ", "-")
                for t in re.findall(r"(?m)^#+ (.*)$", text)
            ]
            if anchor not in titles and f"({anchor})=" not in text:
                lost.append((path.name, target))
    assert not lost


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    inside = [p for p in PAGES if p.is_relative_to(ROOT / "docs") and p.name != "index.md"]
    assert [p.name for p in inside if str(p.relative_to(ROOT / "docs"))[:-3] not in index] == []


def test_both_readmes_show_the_same_commands_and_figures() -> None:
    texts = [(ROOT / n).read_text(encoding="utf-8") for n in ("README.md", "README.zh-CN.md")]
    figures = [set(re.findall(r"<!--=([\w.]+):", text)) for text in texts]
    assert figures[0] == figures[1]
    commands_ = [set(re.findall(r"(?m)^\$ (.*)$", text)) for text in texts]
    assert commands_[1] <= commands_[0]
    speed = [re.findall(r"(?m)^\| .*\| `python benchmarks/startup.py` \|$", text) for text in texts]
    assert speed[0] == speed[1] and len(speed[0]) == 3


@pytest.mark.matrix  # a minute; `make docs` builds it too
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Where the ``docs`` extra is installed."""
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    import subprocess

    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "docs", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert built.returncode == 0, built.stderr


def test_no_page_names_a_place_outside_the_project() -> None:
    # Internet addresses of papers stand as arXiv numbers; image and registry hosts do not stand at all.
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(tmp|home|root|w[o]rk)/|https?://(?!www\.w3\.org)", text), path
