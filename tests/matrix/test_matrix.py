"""Every command over every kind of architecture: an answer or one line, and one figure in all of them.

``make test`` takes few models that have all that kinds are told apart by, and random combinations; ``make
matrix`` every preset and every configuration that an index expects to be read (``CONFIGS=FOLDER``).
"""

from __future__ import annotations

import functools
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

# Of these the models whose searches take seconds: the others' searches are walked by `make matrix` alone.
SEARCHED = ("zamba2-7b", "granite-4.0-h-tiny", "gpt_bigcode-santacoder.json", "deepseek-v2-4l")
SEARCHED += ("qwen1.5-moe-a2.7b", "Gemma-4-26B-A4B-NVFP4.json")


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
    steps = by_turns(place)
    if CHOSEN[place] not in SEARCHED:
        steps = tuple(step for step in steps if step not in SEARCHES)
    found = walk.failures(case, {step: walk.STEPS[step] for step in steps})
    assert not found, "\n".join(found)


def test_every_search_is_walked_by_a_model() -> None:
    turns = {s for place, name in enumerate(CHOSEN) if name in SEARCHED for s in by_turns(place)}
    assert turns == set(walk.STEPS)


def test_the_kinds_are_those_that_the_program_tells_apart() -> None:
    words = {word for name in chosen() for word in walk.kind(name).split()}
    assert words >= {
        *("mha", "mqa", "gqa", "mla", "dense", "moe", "mixed", "shared", "sliding", "tied"),
        *("parallel", "no-attention", "sinks", "positions", "awq-int4", "fp8-fp8", "mxfp4-mxfp4"),
    }


def said(value: object) -> str:
    """A model, a cluster, or which searches a case has."""
    if isinstance(value, str):
        return walk.label(value)
    searches = [step for step in value if step in SEARCHES]
    return "all" if len(searches) == len(SEARCHES) else "+".join(searches)


FIRST = walk.Case("gpt-oss-20b", walk.CLUSTERS[0])


@functools.cache
def compared() -> set[tuple[str, ...]]:
    """Lines of a case: which GPUs its plans are for takes seconds to find."""
    return set(lines.of_case(FIRST))


class Asked(Exception):
    """A step's first question."""


@pytest.mark.parametrize("step", list(walk.STEPS))
def test_what_a_step_asks_first_is_compared_between_versions(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*argv: str) -> None:
        raise Asked(argv)

    monkeypatch.setattr(walk, "ask", ask)
    monkeypatch.setattr(walk, "ask_and_read", ask)
    with pytest.raises(Asked) as asked:
        walk.STEPS[step](FIRST)
    assert asked.value.args[0] in compared()


def cases(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Every model, a cluster and the steps that are walked. The smallest of each kind takes all steps on both
    clusters. The largest, on both too, and the others take by turns the searches, which last longest and
    branch on a model's kind, not on its sizes."""
    found = []
    for names in walk.kinds(folder).values():
        for i, name in enumerate(names):
            turn, other = walk.CLUSTERS[i % 2], walk.CLUSTERS[1 - i % 2]
            if i == 0:
                found += [(name, c, tuple(walk.STEPS)) for c in walk.CLUSTERS]
            elif i == len(names) - 1:
                found.append((name, turn, by_turns(len(found))))
                found.append((name, other, by_turns(len(found))))
            else:
                found.append((name, turn, by_turns(len(found))))
    return found


SEARCHES = ("plan", "serve", "disaggregated", "sweep")


def by_turns(place: int) -> tuple[str, ...]:
    """All steps but searches, and one of these."""
    search = SEARCHES[place % len(SEARCHES)]
    return tuple(step for step in walk.STEPS if step == search or step not in SEARCHES)


@pytest.mark.matrix
def test_no_kind_is_left_out() -> None:
    """Of what models of less than ``LARGE`` weights are made of; larger ones are walked here alone."""
    found = set().union(*map(pairs, chosen()))
    left = {n: pairs(n) - found for n in every(SHIPPED) if walk.size(n) < LARGE}
    assert not {name: words for name, words in left.items() if words}


@pytest.mark.matrix
def test_every_search_is_walked_on_every_kind() -> None:
    """And every other step by every model."""
    asked = cases(FOLDER)
    for names in walk.kinds(FOLDER).values():
        for cluster in walk.CLUSTERS:
            walked = {
                s for name, c, steps in asked if name in names and c == cluster for s in steps
            }
            assert walked == set(walk.STEPS), (names, cluster)
    often = set(walk.STEPS) - set(SEARCHES)
    assert {name for name, _, steps in asked if often <= set(steps)} == set(every(FOLDER))


@pytest.mark.matrix
@pytest.mark.parametrize("name, cluster, steps", cases(FOLDER) if ASKED else [], ids=said)
def test_every_model(name: str, cluster: str, steps: tuple[str, ...]) -> None:
    found = walk.failures(walk.Case(name, cluster), {step: walk.STEPS[step] for step in steps})
    assert not found, "\n".join(found)
