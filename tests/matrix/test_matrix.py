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
ASKED = bool(os.environ.get("MESHWISE_MATRIX"))  # make matrix
LARGE = 1.5e11  # parameters; `make matrix` walks larger ones too


# Small models that together have every two words that stand beside each other in a kind.
CHOSEN = (
    *(
        "zamba2-7b",
        "granite-4.0-h-tiny",
        "Gemma-4-26B-A4B-NVFP4.json",
        "gpt_bigcode-santacoder.json",
    ),
    *("deepseek-v2-4l", "Qwen3.6-27B-NVFP4.json", "falcon-7b", "qwen1.5-moe-a2.7b", "gpt-oss-20b"),
    *("gemma-4-31b", "megatron-h100-1.7b", "Llama-2-7B-AWQ.json", "Qwen3-32B-FP8.json"),
    *("nemotron-super-49b", "llama-4-scout"),
)


def chosen() -> list[str]:
    return [str(SHIPPED / name) if name.endswith(".json") else name for name in CHOSEN]


def pairs(name: str) -> set[tuple[str, str]]:
    return set(itertools.pairwise(walk.kind(name).split()))


def every(folder: Path) -> list[str]:
    """Presets and files, those of one kind beside each other."""
    return [name for names in walk.kinds(folder).values() for name in names]


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
def test_no_kind_is_left_out() -> None:
    """Of what models of less than ``LARGE`` weights are made of; larger ones are walked here alone."""
    found = set().union(*map(pairs, chosen()))
    left = {n: pairs(n) - found for n in every(SHIPPED) if walk.size(n) < LARGE}
    assert not {name: words for name, words in left.items() if words}


@pytest.mark.matrix
@pytest.mark.parametrize("name, cluster", cases(FOLDER) if ASKED else [], ids=walk.label)
def test_every_model(name: str, cluster: str) -> None:
    found = walk.failures(walk.Case(name, cluster), walk.STEPS)
    assert not found, "\n".join(found)
