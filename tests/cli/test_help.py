"""What a command asks for where something is missing, and what its help shows."""

from __future__ import annotations

import importlib.util
import shlex

import click
import pytest
from running import answer, refusal, run
from terminals import on_terminal
from tests.deep import deep

from meshwise.cli import COMMANDS, FIRST_QUESTIONS, cli
from meshwise.cli.command import HELP_GROUPS, CliCommand

CONTEXT = click.Context(cli)
LOADED = {name: cli.get_command(CONTEXT, name) for name in COMMANDS}

MISSING = [
    # command line, what it lacks
    (("scale",), "MODEL, --on and --seq"),
    (("scale", "gpt2"), "--on and --seq"),
    (("scale", "gpt2", "--phase", "decode"), "--on and --context"),
    (("scale", "gpt2", "--phase", "decode", "--seq", "8"), "--on"),
    (("scale", "gpt2", "--phase", "prefill", "--on", "dgx-a100"), "--seq"),
    (("estimate", "--tp", "2"), "MODEL, --on and --seq"),
    (("explain", "--on", "dgx-a100", "--seq", "64"), "MODEL"),
    (("plan", "gpt2"), "--on, --global-batch and --seq"),
    (("plan", "gpt2", "--on", "dgx-a100", "--seq", "1k", "--gpus", "8"), "--global-batch"),
    (("plan", "llama-3.1-8b", "--isl", "5", "--gpus", "8"), "--on, --osl and --concurrency"),
    (("plan", "llama-3.1-8b", "--tpot", "50ms", "--gpus", "8"), "--on, --isl and --osl"),
    (("serve", "llama-3.1-8b"), "--on, --isl, --osl and --concurrency"),
    (("serve", "--osl", "3"), "MODEL, --on, --isl and --concurrency"),
    (("collective",), "OP, SIZE and --on"),
    (("collective", "all_gather"), "SIZE and --on"),
    (("collective", "--ranks", "4"), "OP, SIZE and --on"),
    (("export",), "TARGET and MODEL"),
    (("export", "sglang", "--tp", "2"), "MODEL"),
    (("model",), "MODEL"),
]


@pytest.mark.parametrize(("argv", "lacks"), MISSING, ids=lambda v: " ".join(v))
def test_all_that_is_missing_is_named_at_once(argv: tuple[str, ...], lacks: str) -> None:
    """With a command line that has it: what was given stays in it, and it runs."""
    error = refusal(*argv)
    assert error["message"] == f"{lacks}: missing"
    assert error["field"] == lacks.replace(" and ", ", ").split(", ")[0]
    assert error["value"] is None
    example = shlex.split(error["legal"].split("`")[1])
    assert example[:2] == ["meshwise", argv[0]]
    words = [w for w in example[2:] if w != "--json"]
    assert [w for w in words if w in argv[1:]] == list(argv[1:])
    ran = run(argv[0], *words)
    assert ran.code in (0, 3), ran.err


def test_what_is_missing_beside_a_launch_command() -> None:
    error = refusal("import", "vllm serve meta-llama/Llama-3.1-8B -tp 2", "--on", "dgx-a100")
    assert error["message"].startswith("--isl, --osl and --concurrency: missing")
    assert error["field"] == "--isl"
    torchrun = "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 8"
    argv = ("import", torchrun, "--target", "megatron-lm", "--model", "llama-3.1-8b")
    error = refusal(*argv, "--on", "dgx-a100")
    assert error["message"].startswith("--global-batch, --micro-batch and --seq: missing")
    assert refusal("import")["message"] == "COMMAND and --on: missing"


def test_nothing_of_a_long_or_hostile_line_is_repeated() -> None:
    for nasty in ("x" * 5000, "\x1b[31m", "a\nb"):
        error = refusal("scale", nasty)
        assert error["field"] == "--on"
        assert "meshwise scale … --on dgx-a100 --seq 2048" in error["legal"]


# -- the help ----------------------------------------------------------------------------------------


def sections(name: str) -> dict[str, str]:
    ran = run(name, "--help")
    assert ran.code == 0
    found: dict[str, str] = {}
    title = ""
    for line in ran.out.splitlines():
        if line.endswith(":") and line[:-1] in (*HELP_GROUPS, "Examples"):
            title = line[:-1]
        elif title:
            found[title] = found.get(title, "") + line + "\n"
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_grouped_and_marks_what_is_required(name: str) -> None:
    command = LOADED[name]
    assert isinstance(command, CliCommand)
    found = sections(name)
    assert list(found) == [g for g in (*HELP_GROUPS, "Examples") if g in found]
    assert {"What", "Output", "Examples"} <= set(found) or name in ("validate",)
    assert "--color" in found["Output"] and "--help" in found["Output"]
    if "--on" in "".join(found.values()):
        assert "--on" in found["Where"] and "--tp" not in found["Where"]
    for need in command.needs:
        shown = " ".join("".join(found.values()).split())
        assert f"[{need.words}]" in shown
    for param in command.params:  # every argument is explained
        assert not isinstance(param, click.Argument) or command.about[param.name or ""]


def test_each_name_of_the_groups_is_a_parameter() -> None:
    known = {p.name for c in LOADED.values() if c for p in c.params}
    coming = {"brief", "detail", "as_html"}
    assert {n for names in HELP_GROUPS.values() for n in names} - known <= coming


def examples() -> list[tuple[str, str]]:
    return [(n, e) for n, c in LOADED.items() if isinstance(c, CliCommand) for e in c.examples]


@pytest.mark.parametrize("name", COMMANDS)
def test_two_examples_each(name: str) -> None:
    assert len([e for n, e in examples() if n == name]) == 2
    assert all(f"  {e}\n" in sections(name)["Examples"] for n, e in examples() if n == name)


# starting ranks takes seconds
USUAL = [deep(*e) if e[0] == "run" else e for e in examples()]


@pytest.mark.parametrize("name, example", USUAL, ids=lambda v: v[:70])
def test_the_examples_run(name: str, example: str) -> None:
    words = shlex.split(example)
    assert words[:2] == ["meshwise", name]
    if name == "run" and importlib.util.find_spec("torch") is None:
        pytest.skip("performs a model: needs the runtime extra")
    ran = run(*words[1:])
    assert ran.code == 0 and ran.out, ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_are_explained_where_there_are_any(name: str) -> None:
    text = " ".join(run(name, "--help").out.split())
    assert ("128k (k is 1,024" in text) == (" N " in text)


def test_meshwise_alone_asks_first_on_a_terminal_and_helps_in_a_pipe() -> None:
    ran = on_terminal(80)
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("  meshwise")] == [
        f"  meshwise {command}" for _, command in FIRST_QUESTIONS
    ]
    assert all(len(line) <= 80 for line in ran.out.splitlines())
    assert run().out == run("--help").out and run().code == 0


@pytest.mark.parametrize("command", [command for _, command in FIRST_QUESTIONS])
def test_the_first_questions_are_answered(command: str) -> None:
    answer(*shlex.split(command))


def test_version() -> None:
    assert run("-V").out == run("--version").out != ""
