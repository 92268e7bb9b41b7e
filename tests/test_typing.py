"""A type checker knows what every public function takes and returns: mypy over ``typing_public.py``."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from meshwise.axes import AXES, RECOMPUTE_MODES, SERVES, SHARD_STAGES, TRAINS
from meshwise.layouts import keywords
from meshwise.layouts.layout import Layout, Layouts
from meshwise.search.serving.plan import SERVING_OBJECTIVES
from meshwise.search.training.question import TRAINING_OBJECTIVES
from meshwise.stacks.words import Sharding

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tests" / "typing_public.py"
WANTED = re.compile(r"  # (R|E): (.*)$")
SAID = re.compile(
    r'typing_public\.py:(\d+): (?:note: Revealed type is "(.*)"|error: .*\[([\w-]+)\])$'
)


def wanted() -> dict[int, tuple[str, set[str]]]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    found = {n: m for n, line in enumerate(lines, start=1) if (m := WANTED.search(line))}
    return {n: (m[1], {m[2]} if m[1] == "R" else set(m[2].split(", "))) for n, m in found.items()}


@pytest.mark.matrix  # mypy over the package: `make types` in miniature
def test_types_are_those_that_the_cases_name(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    from mypy import api

    monkeypatch.chdir(ROOT)  # paths of the configuration are relative
    options = ("--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary", "--no-pretty")
    out, err, _ = api.run([*options, str(CASES)])
    found: dict[int, tuple[str, set[str]]] = {}
    for line in out.splitlines():
        said = SAID.search(line)
        if said is None:
            assert ": note: " in line, line  # possible overloads
            continue
        kind, text = ("R", said[2]) if said[2] is not None else ("E", said[3])
        text = re.sub(r"builtins\.", "", text)
        found.setdefault(int(said[1]), (kind, set()))[1].add(text)
    assert not err
    assert found == wanted()


def test_typed_axes_are_those_that_there_are() -> None:
    """What a type checker has to find written out is the table's."""
    assert Layout.__struct_fields__ == Layouts._fields == tuple(AXES)
    assert Layout.__struct_defaults__ == tuple(axis.default for axis in AXES.values())
    assert set(keywords.LayoutAxes.__annotations__) == {n for n, a in AXES.items() if not a.key}
    assert set(keywords.ServingDegrees.__annotations__) == set(SERVES)
    assert set(keywords.ServingPins.__annotations__) == set(SERVES)
    assert set(keywords.TrainingPins.__annotations__) == {AXES[n].said for n in TRAINS}


def test_typed_words_are_those_that_there_are() -> None:
    from typing import get_args

    from meshwise import plans

    assert get_args(keywords.Recompute) == RECOMPUTE_MODES
    assert get_args(keywords.Shard) == get_args(Sharding) == SHARD_STAGES
    assert get_args(keywords.Overlap) == AXES["decomposed"].values
    assert get_args(plans.TrainingObjective) == TRAINING_OBJECTIVES
    assert get_args(plans.ServingObjective) == SERVING_OBJECTIVES
