"""Every example runs and says what it is there to say."""

from __future__ import annotations

import contextlib
import io
import runpy
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return out.getvalue()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_every_example_runs_and_prints(path: Path) -> None:
    if "simpy" in path.name:
        pytest.importorskip("simpy")
    assert run(path.name).strip()


def test_a_server_in_simpy_has_the_time_per_token_of_the_one_that_is_built_in() -> None:
    pytest.importorskip("simpy")
    own, built_in = (float(line.split()[-2]) for line in run("simpy_server.py").splitlines())
    assert own == pytest.approx(built_in, rel=0.05)


def test_the_quick_start_is_five_statements() -> None:
    source = (EXAMPLES / "quick_start.py").read_text()
    code = source.split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    assert "TP=8" in run("quick_start.py")


def test_a_real_cluster_takes_at_most_twenty_lines() -> None:
    text = (EXAMPLES / "my_cluster.toml").read_text()
    assert len(text.splitlines()) <= 20
    assert len(tomllib.loads(text)["level"]) == 2


def test_my_cluster_shares_the_nic_and_the_uplinks() -> None:
    lines = run("my_cluster.py").splitlines()
    rack = next(line for line in lines if line.strip().startswith("rack"))
    assert " 1.56 GB/s" in rack  # 12.5 GB/s, four devices, half of the uplinks


def test_small_messages_take_one_shot_and_large_ones_do_not() -> None:
    rows = [line for line in run("collective_sweep.py").splitlines()[1:] if line.strip()]
    assert "one_shot" in rows[0]
    assert "one_shot" not in rows[-1]


def test_a_looser_target_never_serves_fewer_tokens() -> None:
    rows = [line.split() for line in run("serving_copies.py").splitlines()[1:]]
    rates = [float(row[-1].replace(",", "")) for row in rows if row[-1] != "none"]
    assert rates == sorted(rates)
    assert len(rates) >= 3


def test_the_note_has_every_row() -> None:
    table = run("the_note.py").splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [f"C{i}" for i in range(1, 39)]
