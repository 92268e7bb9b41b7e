"""Templates of files, before a tool has filled them in: Helm's, Go's and Jinja's."""

from __future__ import annotations

import re

from meshwise.errors import InputError, shorten
from meshwise.launch.files import yaml_text

# parts that come or go by values of elsewhere: what remains is not known from the text
_PARTS = re.compile(
    r"\{%|\{\{-?\s*((if|else|end|range|with|define|include|template|block)\b|\$\w+\s*:?=)"
)
_PLACE = re.compile(r"\{\{-?\s*`?(.*?)`?\s*-?\}\}")


# ``<model>`` as pages write what the reader is to fill in: no redirect has its words so
_BLANK = re.compile(r"(?<=[\s=])<([A-Za-z][\w ./:-]*\w|[A-Za-z])>(?=[\s'\"\\]|$)")


def blanks_as_variables(text: str) -> str:
    """The text with a variable that is not set in each blank of a page's command."""
    return _BLANK.sub(lambda m: "$" + _name(m.group(1)), text)


def is_template(text: str) -> bool:
    """Whether a text is a template of a configuration file: braces of one, at its head or in YAML."""
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if bare.startswith(("{{", "{%")):
            return True
        break
    return _PLACE.search(text) is not None and yaml_text.looks_like(text)


def places_as_variables(text: str) -> str:
    """The text with a variable that is not set in each place for a value, so that a layout's is asked
    for by name. Raises for a template whose parts come or go: no layout follows from it."""
    for number, line in enumerate(text.splitlines(), 1):
        found = _PARTS.search(line)
        if found is not None and not _of_a_conversation(line[: found.start()], found.group()):
            shown = line[found.start() :].strip()
            raise InputError(
                f"command: a template that is not filled in: {shorten(shown)} in line {number}",
                field="command",
                value=shorten(shown),
                legal="what the tool that fills it in prints (`helm template`)",
            )
    return _PLACE.sub(lambda m: "$" + _name(m.group(1)), text)


def _of_a_conversation(before: str, part: str) -> bool:
    """Whether a part of a template is inside a value in quotes: a model's chat template, which its engine
    fills in."""
    return part == "{%" and any(before.count(quote) % 2 for quote in ("'", '"'))


def _name(expression: str) -> str:
    """``.Values.model.tp | default 8`` as a variable's name: Values_model_tp."""
    first = expression.strip("`{} ").partition("|")[0].strip()
    return re.sub(r"\W+", "_", first).strip("_") or "value"
