"""Every command over every kind of architecture: an answer or one line, and one figure in all of them.

``make test`` takes few models that have all that kinds are told apart by, and random combinations; ``make
matrix`` every preset and every configuration that an index expects to be read (``CONFIGS=FOLDER``).
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import lines
import pytest
import walk

SHIPPED = Path(__file__).parents[1] / "data" / "configs"
FOLDER = Path(os.environ.get("MESHWISE_CONFIGS") or SHIPPED)
LARGE = 1.5e11  # parameters; `make matrix` walks larger ones too


def every(folder: Path) -> list[str]:
    """Presets and files, those of one kind beside each other."""
    return [name for names in walk.kinds(folder).values() for name in names]


def chosen() -> list[str]:
    """Small models that together have every two words that stand beside each other in a kind, those
    with most of them first."""
    small = sorted((n for n in every(SHIPPED) if walk.size(n) < LARGE), key=walk.size)
    pairs = {name: set(itertools.pairwise(walk.kind(name).split())) for name in small}
    left, found = set().union(*pairs.values()), []
    while left:
        found.append(max(small, key=lambda name: len(pairs[name] & left)))
        left -= pairs[found[-1]]
    return found


@pytest.mark.parametrize("place, name", list(enumerate(chosen())), ids=lambda v: walk.label(str(v)))
def test_what_kinds_are_told_apart_by(place: int, name: str) -> None:
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
