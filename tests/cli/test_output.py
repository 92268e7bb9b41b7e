"""Plain in a pipe, rich on a terminal, CSV, JSON; and what a reader that goes away gets."""

import csv
import io
import os
import pty
import subprocess
import sys

import pytest
from running import answer, run

ARGV = ("scale", "gpt3-175b", "--on", "dgx-a100", "--batch", "32", "--seq", "2048")
ESTIMATE = (
    "estimate",
    "gpt3-175b",
    "--on",
    "dgx-a100",
    "--tp",
    "8",
    "--pp",
    "8",
    "--batch",
    "64",
    "--seq",
    "2048",
)
COMMANDS = [
    ARGV,
    ESTIMATE,
    ("explain", *ESTIMATE[1:]),
    ("model", "qwen2-7b"),
    ("collective", "all_reduce", "1MB", "--on", "dgx-a100"),
    ("catalog",),
    ("catalog", "clusters"),
    ("catalog", "device", "h100"),
]
MODULE = [sys.executable, "-m", "meshwise"]


def process(*argv, **environment):
    return subprocess.run(
        [*MODULE, *argv], capture_output=True, text=True, env=os.environ | environment, timeout=60
    )


def terminal(*argv, **environment):
    """What a command writes on a pseudo-terminal."""
    leader, follower = pty.openpty()
    child = subprocess.Popen([*MODULE, *argv], stdout=follower, env=os.environ | environment)
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the child is gone
            break
        if not part:
            break
        text += part
    os.close(leader)
    assert child.wait() == 0
    return text.decode()


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_text_is_plain_and_says_something(argv):
    ran = run(*argv)
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert len(ran.out.splitlines()) > 3
    assert all(line == line.rstrip() for line in ran.out.splitlines())


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_csv_has_a_column_per_name(argv):
    ran = run(*argv, "--csv")
    assert (ran.code, ran.err) == (0, "")
    rows = list(csv.reader(io.StringIO(ran.out)))
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(set(rows[0])) == len(rows[0])


def test_csv_has_the_figures_of_the_json():
    rows = list(csv.DictReader(io.StringIO(run(*ARGV, "--csv").out)))
    points = answer(*ARGV)["points"]
    assert [float(r["step_s"]) for r in rows] == [p["step_s"] for p in points]
    assert [int(r["tp"]) for r in rows] == [p["tp"] for p in points]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_json_is_one_object_and_nothing_else(argv):
    assert isinstance(answer(*argv), dict)


def test_an_answer_is_the_same_twice():
    assert run(*ARGV, "--json") == run(*ARGV, "--json")


def test_a_terminal_gets_colour_unless_it_says_no():
    assert "\x1b[" in terminal(*ARGV, TERM="xterm-256color", NO_COLOR="", COLUMNS="160")
    assert "\x1b" not in terminal(*ARGV, TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b" not in terminal(*ARGV, TERM="dumb", NO_COLOR="")


@pytest.mark.parametrize(
    "argv",
    [
        ARGV,
        ("catalog", "clusters", "--csv"),
        (*ARGV, "--json"),
        ("catalog", "cluster", "dgx-2", "--toml"),
    ],
)
def test_an_ascii_locale_is_no_reason_to_fail(argv):
    done = process(*argv, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@pytest.mark.parametrize("argv", [ARGV, (*ARGV, "--json"), ("catalog", "models"), ("--help",)])
def test_a_reader_that_goes_away(argv):
    script = f"{' '.join([*MODULE, *argv])} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("argv", [ARGV, (*ARGV, "--json"), ("--help",)])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_a_full_disk_is_one_line(argv):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MODULE, *argv], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "meshwise: cannot write the answer: No space left on device\n"


def test_closed_streams():
    for command in (
        f"{' '.join([*MODULE, *ARGV])} >&-",
        f"{' '.join([*MODULE, '--help'])} >&- 2>&-",
    ):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    bad = f"{' '.join(MODULE)} scale gpt2 --on nowhere --seq 8 2>&-"
    assert subprocess.run(["bash", "-c", bad], capture_output=True, timeout=60).returncode == 2


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("-h",),
        (),
        *(
            (c, "--help")
            for c in ("scale", "estimate", "explain", "model", "collective", "catalog")
        ),
    ],
)
def test_help(argv):
    ran = run(*argv)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: meshwise")


def test_version():
    assert run("--version").out.startswith("meshwise, version ")
