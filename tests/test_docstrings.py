"""Every public function and type says its parameters, units, refusals and source, with an example that runs."""

from __future__ import annotations

import doctest
import inspect
import operator
import re
from typing import Any

import pytest

import meshwise as mw

MADE = ("Device.of", "Level.of", "Model.dense", "Model.mla", "Model.moe")
NAMES = sorted({*mw.__all__, *MADE} - {"__version__"})
FUNCTIONS = [n for n in NAMES if inspect.isroutine(operator.attrgetter(n)(mw))]
AS_DENSE = {"Model.moe", "Model.mla"}  # say what they have beside its parameters


def documented(name: str) -> str:
    text = inspect.getdoc(operator.attrgetter(name)(mw))
    assert text
    return text


def parameters(name: str) -> list[str]:
    thing: Any = operator.attrgetter(name)(mw)
    if name == "Stack":  # its switches have a page of their own
        return ["name"]
    for fields in ("__struct_fields__", "_fields"):
        if hasattr(thing, fields):
            return list(getattr(thing, fields))
    signature = inspect.signature(thing)
    return [p for p in signature.parameters if p not in ("self", "cls")]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_documented_and_no_other(name: str) -> None:
    said = re.findall(r"(?m)^\s*:param (\w+):", documented(name))
    if name in AS_DENSE:
        said += re.findall(r"(?m)^\s*:param (\w+):", documented("Model.dense"))
        said += re.findall(r"(?m)^\s*:param (\w+):", documented("Model.moe"))
        assert set(parameters(name)) <= set(said)
    else:
        assert said == parameters(name)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("Point", "MeshwiseError")])
def test_what_is_raised_is_documented(name: str) -> None:
    assert re.search(r"(?m)^\s*:raises \w+: ", documented(name))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "." not in n])
def test_every_function_says_what_it_rests_on_and_returns(name: str) -> None:
    text = documented(name)
    assert "Rests on " in text
    assert ":returns:" in text or name in ("model", "cluster", "stack")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    example = doctest.DocTestParser().get_doctest(documented(name), {}, name, None, 0)
    assert example.examples
    failed, tried = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(example)
    assert not failed
    assert tried or name == "run"  # which starts ranks
