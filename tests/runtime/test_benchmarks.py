"""The benchmarks that start ranks run: one round of each, of the least that they measure."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.runtime.ranks_two_nodes import ROOT, two_nodes


def ran(name: str, *arguments: str) -> str:
    command = [sys.executable, f"benchmarks/{name}.py", "--rounds", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_collectives() -> None:
    assert "shared memory" in ran("collectives", "--sizes", "64")


def test_overlap() -> None:
    reason = two_nodes.available()
    if reason:
        pytest.skip(reason)
    assert "hidden" in ran("overlap", "--layers", "1", "--batch", "1", "--seq", "64")


@pytest.mark.matrix
def test_runtime() -> None:
    small = ("--runs", "1", "--only", "small, float32", "--variant", "ours (gloo)")
    assert "ours (gloo)" in ran("runtime", *small)


@pytest.mark.matrix
def test_from_checkpoint() -> None:
    assert "forward + backward" in ran("from_checkpoint", "--runs", "1")
