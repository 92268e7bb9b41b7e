"""Defaults from a file: where it is looked for, what it may say, and that the answer says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import run

from meshwise.cli import defaults

TRAIN = ("scale", "gpt2", "--seq", "1024")
LOAD = ("--isl", "512", "--osl", "64", "--concurrency", "8")
OWN = """device = "a100-80gb-sxm"
[[level]]
ranks = 4
fabric = "nvlink3-nvswitch"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, with a project in it, which the process is in."""
    home = tmp_path / "home"
    (home / "project" / "deep").mkdir(parents=True)
    monkeypatch.delenv("MESHWISE_CONFIG")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "project")
    return home


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def asked(*argv: str) -> dict:
    ran = run(*argv, "--json")
    assert ran.code == 0, ran.out
    return ran.json()


def remarks(record: dict) -> str:
    return json.dumps(record["remarks"]) if "remarks" in record else ""


def test_without_a_file_nothing_is_taken(home: Path) -> None:
    assert run(*TRAIN).err.startswith("meshwise: --on: missing")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("project/meshwise.toml", "the default of meshwise.toml"),
        ("meshwise.toml", "the default of ../meshwise.toml"),
        (".config/meshwise/config.toml", "the default of ~/.config/meshwise/config.toml"),
    ],
)
def test_the_file_is_found_and_named(home: Path, place: str, words: str) -> None:
    write(home / place, 'on = "dgx-a100"\n')
    record = asked(*TRAIN)
    assert record["cluster"]["name"] == "dgx-a100"
    assert f"on dgx-a100 is {words}" in remarks(record)
    page = " ".join(run(*TRAIN).out.split())
    assert f"On dgx-a100 is {words}." in page and str(home) not in page


def test_the_nearest_wins_and_the_command_line_before_all(home: Path) -> None:
    write(home / ".config/meshwise/config.toml", 'on = "dgx-h100"\n')
    assert asked(*TRAIN)["cluster"]["name"] == "dgx-h100"
    write(home / "meshwise.toml", 'on = "dgx-a100"\n')
    assert asked(*TRAIN)["cluster"]["name"] == "dgx-a100"
    write(home / "project/meshwise.toml", 'on = "hgx-h200"\n')
    assert asked(*TRAIN)["cluster"]["name"] == "hgx-h200"
    record = asked(*TRAIN, "--on", "dgx-a100")
    assert record["cluster"]["name"] == "dgx-a100"
    assert "default of" not in remarks(record)


def test_a_repository_ends_the_search(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "meshwise.toml", 'on = "dgx-a100"\n')
    (home / "project" / ".git").mkdir()
    monkeypatch.chdir(home / "project" / "deep")
    assert defaults.find_defaults() is None
    found = write(home / "project" / "meshwise.toml", 'on = "dgx-a100"\n')
    assert defaults.find_defaults() == found


def test_outside_of_both_a_folder_above_is_anybodys(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "meshwise.toml", 'on = "dgx-a100"\n')
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")
    assert defaults.find_defaults() is None


def test_the_variable_names_a_file_or_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "project/meshwise.toml", 'on = "dgx-a100"\n')
    monkeypatch.setenv("MESHWISE_CONFIG", "")
    assert run(*TRAIN).code == 2
    monkeypatch.setenv("MESHWISE_CONFIG", str(write(home / "other.toml", 'on = "dgx-h100"\n')))
    assert asked(*TRAIN)["cluster"]["name"] == "dgx-h100"
    monkeypatch.setenv("MESHWISE_CONFIG", str(home / "absent.toml"))
    assert "absent.toml" in run(*TRAIN).err and run(*TRAIN).code == 2


def test_a_cluster_file_is_from_the_files_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "project/own.toml", OWN)
    write(home / "project/meshwise.toml", 'on = "own.toml"\n')
    monkeypatch.chdir(home / "project" / "deep")
    assert asked(*TRAIN)["cluster"]["devices"] == 4


COMMANDS = [
    TRAIN,
    ("estimate", *TRAIN[1:], "--tp", "2"),
    ("explain", *TRAIN[1:], "--tp", "2"),
    ("scale", *TRAIN[1:], "--batch", "64", "--gpus", "8,16"),
    ("scale", *TRAIN[1:], "--sweep", "batch=1,4"),
    ("plan", *TRAIN[1:], "--batch", "64", "--gpus", "8"),
    ("plan", "llama-3.1-8b", *LOAD, "--gpus", "8"),
    ("serve", "llama-3.1-8b", *LOAD),
    ("collective", "all_reduce", "1MB"),
    ("import", "vllm serve meta-llama/Llama-3.1-8B -tp 8", *LOAD),
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda a: " ".join(a[:2] + a[-2:]))
def test_every_command_that_needs_a_cluster_takes_it_and_says_so(
    home: Path, argv: tuple[str, ...]
) -> None:
    write(home / "project/meshwise.toml", 'on = "dgx-a100"\n')
    own = asked(*argv)
    given = asked(*argv, "--on", "dgx-a100")
    assert own.pop("remarks")[-1] == "on dgx-a100 is the default of meshwise.toml"
    given.pop("remarks", None)
    for record in (own, given):
        record.pop("elapsed_s", None)
    assert own == given


@pytest.mark.parametrize(
    ("argv", "stack"),
    [
        (("serve", "llama-3.1-8b", *LOAD), "sglang"),
        (("scale", "llama-3.1-8b", "--phase", "decode", "--context", "1k"), "sglang"),
        (("plan", "llama-3.1-8b", *LOAD, "--gpus", "8"), "sglang"),
        (TRAIN, "megatron-core"),
        (("serve", "llama-3.1-8b", *LOAD, "--stack", "trtllm"), "trtllm"),
        (("serve", "llama-3.1-8b", *LOAD, "--ideal"), "ideal"),
    ],
)
def test_a_stack_is_taken_for_what_it_is_made_for(
    home: Path, argv: tuple[str, ...], stack: str
) -> None:
    write(home / "project/meshwise.toml", 'on = "dgx-h100"\nstack = "sglang"\n')
    record = asked(*argv)
    assert record["stack"]["name"] == stack
    said = remarks(record)
    assert ("stack sglang is the default" in said) == (stack == "sglang")
    assert ("stack sglang, is left out: it is made for inference" in said) == (argv == TRAIN)


def test_a_launch_command_keeps_its_own_software(home: Path) -> None:
    write(home / "project/meshwise.toml", 'on = "dgx-h100"\nstack = "sglang"\n')
    record = asked("import", "vllm serve meta-llama/Llama-3.1-8B -tp 8", *LOAD)
    assert "sglang" not in remarks(record)
    assert record == asked("import", "vllm serve meta-llama/Llama-3.1-8B -tp 8", *LOAD)


@pytest.mark.parametrize(
    ("text", "field", "nearest"),
    [
        ('on = "hgx-h10"\n', "meshwise.toml.on", "hgx-h100"),
        ('stack = "sglan"\n', "meshwise.toml.stack", "sglang"),
        ('model = "gpt2"\n', "meshwise.toml.model", None),
        ('onn = "dgx-a100"\n', "meshwise.toml.onn", "on"),
        ("on = 3\n", "meshwise.toml.on", None),
        ('on = ""\n', "meshwise.toml.on", None),
        ("on = \n", "meshwise.toml", None),
        ('on = "absent.toml"\n', "meshwise.toml.on", None),
    ],
)
def test_what_is_wrong_in_the_file_is_said_of_the_file(
    home: Path, text: str, field: str, nearest: str | None
) -> None:
    write(home / "project/meshwise.toml", text)
    argv = ("scale", "llama-3.1-8b", "--phase", "decode", "--context", "64")
    if "on =" not in text:
        argv += ("--on", "dgx-a100")
    ran = run(*argv)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1 and "meshwise.toml" in ran.err
    error = run(*argv, "--json").json()["error"]
    assert error["field"] == field and error["message"].startswith("meshwise.toml")
    assert nearest is None or error["nearest"] == nearest


def test_commands_without_a_cluster_do_not_read_it(home: Path) -> None:
    write(home / "project/meshwise.toml", "this is no TOML")
    assert run("model", "gpt2").code == 0
    assert run("export", "vllm", "llama-3.1-8b", "--tp", "2").code == 0
    assert run("catalog", "stacks").code == 0
    assert run(*TRAIN, "--on", "dgx-a100", "--stack", "megatron-core").code == 0
