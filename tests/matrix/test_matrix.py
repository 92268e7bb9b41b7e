"""Every command over every kind of architecture: an answer or one line, and one figure in all of them.

``make test`` takes one model of each kind, a few of the rest and random combinations; ``make matrix``
every preset and every configuration that an index expects to be read (``CONFIGS=FOLDER``).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import lines
import pytest
import walk

SHIPPED = Path(__file__).parents[1] / "data" / "configs"
FOLDER = Path(os.environ.get("MESHWISE_CONFIGS") or SHIPPED)
SEED = 12
LARGE = 1.5e11  # parameters; `make matrix` walks larger ones too


def every(folder: Path) -> list[str]:
    """Presets and files, those of one kind beside each other."""
    return [name for names in walk.kinds(folder).values() for name in names]


def chosen() -> list[str]:
    """The smallest model of each kind, but of those that take hundreds of GPUs to plan for, and a seeded
    few of the others."""
    first = [names[0] for names in walk.kinds(SHIPPED).values() if walk.size(names[0]) < LARGE]
    rest = [n for n in every(SHIPPED) if n not in first and walk.size(n) < LARGE]
    return first + random.Random(SEED).sample(rest, len(rest) // 40)


@pytest.mark.parametrize("place, name", list(enumerate(chosen())), ids=lambda v: walk.label(str(v)))
def test_one_of_each_kind(place: int, name: str) -> None:
    case = walk.Case(name, walk.CLUSTERS[place % 2])
    found = walk.failures(case, walk.STEPS)
    assert not found, "\n".join(found)


def test_the_kinds_are_those_that_the_program_tells_apart() -> None:
    words = {word for name in chosen() for word in walk.kind(name).split()}
    assert words >= {
        *("mha", "mqa", "gqa", "mla", "dense", "moe", "mixed", "shared", "sliding", "tied"),
        *("parallel", "no-attention", "sinks", "positions", "awq-int4", "fp8-fp8", "mxfp4-mxfp4"),
    }


class Asked(Exception):
    """A step's first question."""


@pytest.mark.parametrize("step", list(walk.STEPS))
def test_what_a_step_asks_first_is_compared_between_versions(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*argv: str) -> None:
        raise Asked(argv)

    monkeypatch.setattr(walk, "ask", ask)
    case = walk.Case("gpt-oss-20b", walk.CLUSTERS[0])
    with pytest.raises(Asked) as asked:
        walk.STEPS[step](case)
    assert asked.value.args[0] in set(lines.of_case(case))


def cases(folder: Path) -> list[tuple[str, str]]:
    """Every model; the smallest and the largest of each kind on both clusters, the others by turns."""
    names = every(folder)
    kinds = [walk.kind(name) for name in names]
    found = []
    for i, name in enumerate(names):
        end = i in (0, len(names) - 1) or not kinds[i - 1] == kinds[i] == kinds[i + 1]
        found += [(name, c) for c in (walk.CLUSTERS if end else walk.CLUSTERS[i % 2 : i % 2 + 1])]
    return found


@pytest.mark.matrix
@pytest.mark.parametrize("name, cluster", cases(FOLDER), ids=walk.label)
def test_every_model(name: str, cluster: str) -> None:
    found = walk.failures(walk.Case(name, cluster), walk.STEPS)
    assert not found, "\n".join(found)
