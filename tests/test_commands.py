"""Every command that a page or a benchmark names in its text runs (the blocks of the pages are run by
test_docs), or stands below with the reason why not."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deep import deep

from meshwise.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / n for n in ("README.md", "README.zh-CN.md", "AGENTS.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RANKS = ("runtime", "collectives", "overlap", "from_checkpoint")
# beginning of a command → why no test runs it
NOT_RUN = {
    "make ": "sets up the environment or is what runs these tests",
    "pip ": "sets up the environment",
    "python -m venv": "sets up the environment",
    "python -c": "no command of ours",
    "import meshwise": "Python, not a command",
    "python tools/fit_": "needs wheels with measurements that are not shipped",
    "python tools/check_catalog_sources": "has tests of its own",
    "python tools/cross_validate.py": "refits for minutes; tests/evidence/test_left_out.py runs its parts",
    "python tools/serving_left_out.py": "needs tables that are not shipped; tests/evidence/test_serving_left_out.py",
    "python tools/golden.py": "has tests of its own",
    "python docs/generate.py": "test_docs renders what it renders",
    "python examples/": "test_examples runs every example",
    **{
        f"python benchmarks/{name}.py": "tests/runtime/test_benchmarks.py runs it" for name in RANKS
    },
    "meshwise run": "starts ranks: tests/runtime; with nccl it needs GPUs",
    "meshwise export vllm --from plan.json": "test_docs runs it in the page's block",
}
WORDS = {
    "MODEL": "llama-3.1-8b",
    "CLUSTER": "hgx-h100",
    "N": "2",
    "NAME=LOW:HIGH": "nics=1:8",
    "KIND": "devices",
    "[KIND]": "collectives",
    "TABLE.csv": "--published collectives",
    "NAME": "h100",
}
REST = {  # what a fragment leaves out
    "scale": ("--batch 256 --seq 2048", "--seq"),
    "estimate": ("--batch 16 --seq 2048", "--seq"),
    "plan": ("--seq 2048", "--seq|--isl"),
}


def inline() -> list[str]:
    """Commands with arguments inside the pages' text."""
    found: dict[str, None] = {}
    for path in PAGES:
        text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
        for span in re.findall(r"`([^`]+)`", text):
            words = span.split()
            ours = len(words) > 1 and (
                words[0] in COMMANDS or words[0] in ("make", "pip", "python")
            )
            if (ours or words[:1] == ["meshwise"]) and not re.search(r"…|\.\.\.", span):
                found.setdefault(" ".join(words))
    return list(found)


def complete(command: str) -> list[str]:
    """The command with its places filled, as a reader would."""
    words = command.removeprefix("meshwise ").split()
    if len(words) == 1 or words == ["catalog", "device", "NAME"]:
        return [words[0], "--help"] if words[0] in COMMANDS else words
    if words[-1].startswith("--") and "=" not in words[-1] and words[-1] != "--json":
        return [words[0], "--help"]  # names an option
    filled = shlex.split(" ".join(WORDS.get(word, word) for word in words))
    if filled[0] in REST:
        if filled[1].startswith("--"):
            filled[1:1] = ["gpt3-175b"]
        if "--on" not in filled:
            filled += ["--on", "dgx-a100"]
        more, unless = REST[filled[0]]
        if not set(unless.split("|")) & set(filled):
            filled += list(more.split())
    return filled


@pytest.mark.parametrize("command", inline())
def test_a_command_in_the_text_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if any(command.startswith(start) for start in NOT_RUN):
        return
    if command.startswith("python benchmarks/"):
        assert Path(command.split()[1]).stem in ("layouts", "startup", "planner_speed"), command
        return  # below
    argv = complete(command)
    code = main(argv)
    said = capsys.readouterr()
    assert code == 0, (argv, said.err)
    assert said.out.strip()


def test_every_reason_still_has_a_command() -> None:
    blocks = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert [start for start in NOT_RUN if start not in blocks] == []


@pytest.mark.parametrize(
    "name, rounds", [("layouts", "1"), ("startup", "1"), deep("serving", "--rounds=1")]
)
def test_a_benchmark_runs(name: str, rounds: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", rounds]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.stdout.strip(), ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("large", [False, deep(True)])  # the README's own row
def test_the_planner_s_benchmark_runs(large: bool, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "planner_speed", ROOT / "benchmarks" / "planner_speed.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.rate("gpt3-175b", "dgx-a100", 8, 8, 2048)
    if large:
        module.command_line(module.SPARSE, 1)
    assert ("kimi-k2" in capsys.readouterr().out) is large
