"""The golden comparison says nothing of equal versions, and names what differs in others."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tools", "examples", "docs", "tests", "README.md", "README.zh-CN.md", "AGENTS.md")
FEW = "^(collective --json all_reduce 64KiB|catalog --json stacks|scale gpt2 .*--tp 0$|.*bad-0.toml)"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=golden", "-c", "user.email=golden@localhost", "-c", "gc.auto=0")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def golden(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/golden.py", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with one commit."""
    folder = tmp_path_factory.mktemp("project")
    without = shutil.ignore_patterns("__pycache__")
    for name in (*COPIED, "CONTRIBUTING.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=without)
        else:
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "before")
    return folder


@needs_git
def test_equal_versions_and_a_changed_constant(project: Path, tmp_path: Path) -> None:
    same = golden(project, "HEAD", "--only", FEW)
    assert (same.returncode, same.stderr) == (0, "")
    count = int(same.stdout.split()[0])
    assert count >= 4 and f"{count} command lines: 0 differ" in same.stdout, same.stdout

    fabrics = project / "src" / "meshwise" / "spec" / "catalog" / "stacks" / "vllm.toml"
    text = fabrics.read_text(encoding="utf-8")
    fabrics.write_text(text.replace('title = "', 'title = "x', 1), encoding="utf-8")
    line = "catalog --json stacks"
    reasons = tmp_path / "accepted"
    reasons.write_text(f"{line} # a title\nscale gpt2 --tp 1 # no such line\n", encoding="utf-8")
    other = golden(project, "HEAD", "--only", FEW, "--accepted", str(reasons))
    print(other)
    assert 0


