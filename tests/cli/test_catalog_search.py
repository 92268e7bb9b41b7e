"""``meshwise catalog WORDS``: every kind searched by name, other name and title."""

from __future__ import annotations

import csv
import io

import pytest
from running import answer, refusal, run

from meshwise import catalog
from meshwise.cli.catalog import CATALOG_KINDS


def found(*words: str) -> dict[str, list[str]]:
    record = answer("catalog", *words)
    assert (record["schema"], record["kind"], record["words"]) == (1, "search", " ".join(words))
    by_kind: dict[str, list[str]] = {}
    for entry in record["entries"]:
        assert list(entry) == ["kind", "name", "title", "aliases"]
        by_kind.setdefault(entry["kind"], []).append(entry["name"])
    assert list(by_kind) == [kind for kind in CATALOG_KINDS if kind in by_kind]
    return by_kind


def test_h100_is_in_several_kinds() -> None:
    kinds = found("h100")
    assert {"h100-80gb-sxm", "h100-94gb-nvl"} <= set(kinds["devices"])
    assert {"hgx-h100", "dgx-h100", "aws-p5"} <= set(kinds["clusters"])  # aws-p5: by its title
    assert all("h100" in name for name in kinds["models"])


@pytest.mark.parametrize("kind", CATALOG_KINDS)
def test_each_entry_is_found_by_its_name_and_by_others(kind: str) -> None:
    for name in catalog.names(kind)[::25]:
        assert name in found(name)[kind]
    for alias, name in list(catalog.aliases(kind).items())[::60]:
        assert name in found(alias)[kind]


@pytest.mark.parametrize(
    ("words", "kind", "name"),
    [
        (("p5.48xlarge",), "clusters", "aws-p5"),
        (("H100", "NVL"), "devices", "h100-94gb-nvl"),
        (("h100 nvl",), "devices", "h100-94gb-nvl"),
        (("vLLM",), "stacks", "vllm"),
        (("Qwen/Qwen3-8B",), "models", "qwen3-8b"),
        (("qwen3 8b",), "models", "qwen3-8b"),
    ],
)
def test_words(words: tuple[str, ...], kind: str, name: str) -> None:
    record = answer("catalog", *words)
    assert (kind, name) in {(e["kind"], e["name"]) for e in record["entries"]}


def test_the_page_has_a_table_for_each_kind() -> None:
    ran = run("catalog", "h100")
    titles = [line for line in ran.out.splitlines() if line in CATALOG_KINDS]
    assert titles == list(found("h100")) and ran.err == ""
    rows = list(csv.DictReader(io.StringIO(run("catalog", "h100", "--csv").out)))
    assert [(r["kind"], r["name"]) for r in rows] == [
        (kind, name) for kind, names in found("h100").items() for name in names
    ]


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("modles",), "models"),
        (("hgx-h10O",), "hgx-h100"),
        (("zzzz",), None),
        (("",), None),
        (("h100", "zzzz"), None),
    ],
)
def test_nothing_found(words: tuple[str, ...], nearest: str | None) -> None:
    ran = run("catalog", "--json", *words)
    assert ran.code == 2
    error = ran.json()["error"]
    assert (error["field"], error["nearest"]) == ("KIND", nearest)
    assert error["legal"] == list(CATALOG_KINDS)
    assert len(run("catalog", *words).err.splitlines()) == 1


def test_the_old_forms_stay() -> None:
    assert answer("catalog")["kind"] == "catalog"
    assert answer("catalog", "devices") == answer("catalog", "device")
    assert answer("catalog", "device", "h100")["name"] == "h100-80gb-sxm"
    assert refusal("catalog", "h100", "--toml")["field"] == "--toml"
    assert refusal("catalog", "zzzz", "h100", "--toml")["field"] == "KIND"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("models", "devices", "meshwise catalog WORDS")),
        (("devices",), ("devices;", "meshwise catalog device NAME")),
        (("h100",), ("'h100'", "and", "more")),
        (("cluster", "hgx-h100"), ("fields", "--toml")),
        (("model", "gpt2"), ("meshwise model gpt2",)),
    ],
)
def test_brief_is_one_line_that_says_how_many_and_how_to_see_more(words, said):
    ran = run("catalog", *words, "--brief")
    assert ran.code == 0
    (line,) = ran.out.splitlines()
    assert all(part in line for part in said)
    assert line not in run("catalog", *words).out  # a list is its own answer
