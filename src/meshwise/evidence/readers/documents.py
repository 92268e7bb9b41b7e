"""Documents that are read whole, JSON and XML: their objects, and the lines that these stand on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from xml.etree import ElementTree

from meshwise.evidence.readers.lines import cannot_read
from meshwise.evidence.readers.records import FileFound, RefusedLine

_SPACE = re.compile(r"\s*")
_DOCTYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)")


class JsonObject(NamedTuple):
    """An object of a file: of the whole file, of a list that is the file, or of one of its lines."""

    line: int
    content: dict[str, Any]


class DocumentKind(NamedTuple):
    """A kind of JSON document: ``claims`` tells its objects by their keys, ``read`` reads them."""

    claims: Callable[[dict[str, Any]], bool]
    read: Callable[[list[JsonObject]], FileFound]


class Objects(NamedTuple):
    """The objects of a text, and the lines of it that hold none."""

    found: list[JsonObject]
    refused: list[RefusedLine]


def json_objects(text: str) -> Objects | None:
    """The objects of a JSON document, of a list of them, or of lines of JSON; None where the text is none
    of these. A text that ends early has what stands before its end."""
    start = _end(text, 0)
    if text[start : start + 1] not in ("{", "["):
        return None
    listed = text[start] == "["
    decoder, found, refused = json.JSONDecoder(), list[JsonObject](), list[RefusedLine]()
    counted, line, at = 0, 1, start + listed
    while (at := _separator(text, at)) < len(text) and not (listed and text[at] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            content, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            refused.append(RefusedLine(line, "a whole JSON object expected"))
            following = text.find("\n", at)
            if listed or (not found and not _looks_like_lines(text, at)) or following < 0:
                break
            at = following
            continue
        if isinstance(content, dict):
            found.append(JsonObject(line, content))
        else:
            refused.append(RefusedLine(line, "a JSON object expected"))
    else:
        if listed and at >= len(text):
            refused.append(RefusedLine(line, "the end of the JSON list expected"))
    return Objects(found, refused)


def _looks_like_lines(text: str, at: int) -> bool:
    """Whether the line after a broken one begins an object of its own."""
    following = text.find("\n", at)
    return following >= 0 and text[_end(text, following) :].startswith('{"')


def _end(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _separator(text: str, at: int) -> int:
    at = _end(text, at)
    return _end(text, at + 1) if text[at : at + 1] == "," else at


def xml_root(text: str, name: str) -> ElementTree.Element | None:
    """The root of an XML document; None where the text is none."""
    if not text.lstrip().startswith("<"):
        return None
    declared = _DOCTYPE.search(text)
    if declared:  # entities may grow without bound
        line = text.count("\n", 0, declared.start()) + 1
        raise cannot_read(name, "XML without a document type expected", line=line)
    try:
        return ElementTree.fromstring(text.strip().encode("utf-8", "replace"))
    except ElementTree.ParseError as error:
        raise cannot_read(name, "whole XML expected", line=error.position[0]) from None


def number_at(content: object, *path: str) -> object:
    """The value under nested keys; None where one of them is not there."""
    for key in path:
        if not isinstance(content, dict):
            return None
        content = content.get(key)
    return content


def list_at(content: object, *path: str) -> list[Any]:
    """A list under nested keys; empty where there is none."""
    found = number_at(content, *path)
    return found if isinstance(found, list) else []


def text_at(content: object, *path: str) -> str | None:
    """A text under nested keys; None where there is none."""
    found = number_at(content, *path)
    return found.strip() or None if isinstance(found, str) else None
