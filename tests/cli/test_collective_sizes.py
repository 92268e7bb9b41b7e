"""``collective`` of several sizes: one table, each line as the answer about that size alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import meshwise as mw
from meshwise.cli import cli
from meshwise.collectives import opened_sizes, several_sizes
from meshwise.errors import InputError

KIB, MIB = 2.0**10, 2.0**20


def asked(*argv: str) -> Any:
    done = CliRunner().invoke(cli, ["collective", "all_reduce", *argv, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


@pytest.mark.parametrize(
    "text, sizes",
    [
        ("1KiB:8KiB", (KIB, 2 * KIB, 4 * KIB, 8 * KIB)),
        ("1KiB:9KiB", (KIB, 2 * KIB, 4 * KIB, 8 * KIB)),
        ("1KiB:64KiB:8", (KIB, 8 * KIB, 64 * KIB)),
        ("64KiB,1MiB", (64 * KIB, MIB)),
        ("1KiB,128KiB", (KIB, 128 * KIB)),
        ("8,1KiB:2KiB", (8.0, KIB, 2 * KIB)),
        ("1MiB:1MiB", (MIB,)),
    ],
)
def test_ranges_and_lists(text: str, sizes: tuple[float, ...]) -> None:
    assert several_sizes(text)
    assert opened_sizes(text) == sizes


@pytest.mark.parametrize("text", ["1,048,576", "1.6GB", "16 MiB", "131072", "1,024"])
def test_one_size_stays_one(text: str) -> None:
    assert not several_sizes(text)
    assert set(asked(text, "--on", "dgx-a100")) >= {"bytes", "candidates"}


@pytest.mark.parametrize(
    "text", ["2KiB:1KiB", "1KiB:1MiB:1", "1:2:3:4", "1KiB:", ",", "1KiB:1PB:1.5"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        opened_sizes(text)
    assert caught.value.field == "size"


def test_each_line_is_the_answer_about_that_size() -> None:
    found = asked("1KiB:1GiB:32", "--on", "hgx-h100", "--ranks", "16")
    assert [s["bytes"] for s in found["sizes"]] == [KIB * 32**k for k in range(5)]
    for s in found["sizes"]:
        alone = mw.collective("all_reduce", s["bytes"], "hgx-h100", 16).to_dict()
        shared = set(s) & set(alone)
        assert {k: s[k] for k in shared} == {k: alone[k] for k in shared}
        assert s["measured_time_s"] is None
    rows = CliRunner().invoke(
        cli, ["collective", "all_reduce", "1KiB:8KiB", "--on", "hgx-h100", "--csv"]
    )
    assert len(rows.output.strip().splitlines()) == 5


def test_measured_sizes_stand_beside(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    head = "id,op,device,ranks,nodes,devices_per_node,bytes,time_us"
    lines = [f"a/{i},all_reduce,h100-80gb-sxm,16,2,8,{b},{us}" for i, (b, us) in enumerate(
        [(8192, 90.0), (1 << 20, 150.0), (32 << 20, 700.0), (1 << 30, 9000.0)]
    )]  # fmt: skip
    table.write_text("\n".join([head, *lines]) + "\n")
    found = asked("8KiB:1GiB:2", "--on", "hgx-h100", "--ranks", "16", "--measured", str(table))
    beside = {s["bytes"]: s["measured_time_s"] for s in found["sizes"] if s["measured_time_s"]}
    assert beside == pytest.approx({8192: 9e-5, MIB: 1.5e-4, 32 * MIB: 7e-4, 1024 * MIB: 9e-3})
    for s in found["sizes"]:
        if s["measured_time_s"]:
            assert s["time_s"] == pytest.approx(s["measured_time_s"], rel=0.15)
    assert found["anchored"]["latency_factor"] > 0
    page = CliRunner().invoke(
        cli,
        [
            "collective",
            "all_reduce",
            "8KiB:1GiB",
            "--on",
            "hgx-h100",
            "--ranks",
            "16",
            "--measured",
            str(table),
        ],
    )
    assert "measured" in page.output and "%" in page.output
