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
LINE = "collective --json all_reduce 64KiB --on hgx-h100"
FEW = "^(collective (--json )?all_reduce 64KiB|catalog --json (fabrics|stacks)|scale gpt2 .*--tp 0$|.*bad-0.toml)"
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
@pytest.mark.matrix
def test_equal_versions_and_a_changed_constant(project: Path) -> None:
    same = golden(project, "HEAD", "--only", FEW)
    assert (same.returncode, same.stderr) == (0, "")
    count = int(same.stdout.split()[0])
    assert count >= 6 and f"{count} command lines: 0 differ" in same.stdout, same.stdout

    old = 'latency = "0.8 us"'
    found = [(p, p.read_text("utf-8")) for p in (project / "src").rglob("nvlink4-nvswitch.toml")]
    ((fabric, text),) = [(path, text) for path, text in found if old in text]
    fabric.write_text(text.replace(old, old.replace("8", "9"), 1), encoding="utf-8")
    undecided = project / "accepted"
    undecided.write_text(
        f"{LINE} # the latency of a link\ncatalog --json stacks # no more\nscale # not a line\n",
        encoding="utf-8",
    )
    other = golden(project, "HEAD", "--only", FEW, "--accepted", str(undecided))
    said = other.stdout.splitlines()
    assert (other.returncode, other.stderr) == (1, ""), other
    where = "cluster.levels[0].latency_s: 8e-07 → 9"
    assert any(line.startswith(f"{LINE}: {where}") and "(accepted: the" in line for line in said)
    assert "    1 × cluster.levels[].latency_s" in said
    assert any(
        line.startswith("catalog --json fabrics: entries[") and line.endswith("0.8 us → 0.9 us")
        for line in said
    )
    assert "catalog --json stacks: accepted, and does not differ any more" in said
    assert "scale: accepted, and is not a command line of --list" in said
    assert f"{count} command lines: 2 differ, 1 of them accepted" in said[-1]
    trees = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True)
    assert len(trees.stdout.splitlines()) == 1, "the scratch worktree is still there"


@needs_git
@pytest.mark.parametrize("words", [("no-such-commit",), ("HEAD", "--accepted", "no-such-file")])
def test_what_cannot_be_compared_is_refused_in_one_line(
    project: Path, words: tuple[str, ...]
) -> None:
    ran = golden(project, *words)
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1, ran
    assert words[-1] in ran.stderr


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))  # golden_lines.py
    try:
        spec = importlib.util.spec_from_file_location("golden", ROOT / "tools" / "golden.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0}]}, None),
        ({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.5}]}, ".a[1].b"),
        ({"a": 1}, {"a": 1.0}, ".a"),
        ({"a": 1}, {"a": True}, ".a"),
        ({"a": 0.0}, {"a": -0.0}, ".a"),
        ({"a": float("nan")}, {"a": float("nan")}, None),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, " (order of keys)"),
        ({"a": 1}, {"a": 1, "b": None}, ".b"),
        ([1, 2], [1], "[1]"),
        ({"elapsed_s": 1.0, "a": 1}, {"elapsed_s": 2.0, "a": 1}, None),
    ],
)
def test_values_are_compared_to_the_last_digit(
    tool: ModuleType, one: object, other: object, where: str | None
) -> None:
    found = [difference.where for difference in tool.differences(one, other)]
    assert found == ([] if where is None else [where])


def test_a_pattern_keeps_what_writes_the_files_that_its_lines_read(tool: ModuleType) -> None:
    words = [("plan", "-o", "p.json"), ("model", "m"), ("export", "--from", "p.json")]
    lines = [tool.Line(w, True) for w in words]
    assert tool.chosen(lines, "^export") == [lines[0], lines[2]]
    with pytest.raises(tool.Unusable, match="no command line"):
        tool.chosen(lines, "^serve")


def test_codes_come_first_and_text_is_compared_by_lines(tool: ModuleType) -> None:
    good, bad = {"code": 0, "err": "", "out": "1\n"}, {"code": 2, "err": "no\n", "out": ""}
    page, less = (good | {"out": text} for text in ("a b\nc d\n", "a b\n"))
    for one, other, found in (
        (good, dict(good), []),
        (good, bad, [("exit code", "0 1", "2 no")]),
        (page, less, [(".lines[1]", "c d", "(absent)")]),
        (good | {"file": "x"}, good | {"file": "y"}, [("file.lines[0]", "x", "y")]),
        (bad, bad | {"err": "yes\n"}, [("err.lines[0]", "no", "yes")]),
    ):
        assert list(tool.told(one, other)) == found


def test_a_command_that_ends_its_process_loses_no_other(tool: ModuleType, tmp_path: Path) -> None:
    source, here = tmp_path / "src", tmp_path / "here"
    (source / "meshwise").mkdir(parents=True)
    here.mkdir()
    (source / "meshwise" / "__init__.py").touch()
    (source / "meshwise" / "cli.py").write_text(
        "import os\n"
        "def main(words):\n"
        "    if words == ['die']: os._exit(9)\n"
        "    if words == ['raise']: raise RuntimeError('no')\n"
        "    print(os.getcwd(), words, os.environ['COLUMNS'])\n"
        "    return 0\n"
    )
    share = tool.Share(source, here, [("a",), ("die",), ("raise",), ("b",)])
    tool.answers([share], jobs=1)
    codes = [record["code"] for record in share.records]
    assert codes == [0, "the process ended (9)", "RuntimeError: no", 0]
    assert share.records[3]["out"] == "<here> ['b'] 100\n"
