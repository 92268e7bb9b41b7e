"""Whole numbers as people write them, and lists with ranges: one rule for every option."""

import click
import pytest
from running import answer, refusal, run

from meshwise.cli import COMMANDS, cli, values
from meshwise.strict_tables import as_digits

TRAIN = ("scale", "gpt2", "--on", "dgx-a100", "--seq", "1024")
PLAN = ("plan", "gpt2", "--on", "dgx-a100", "--gpus", "8", "--seq", "1k", "--global-batch", "64")
SERVED = ("plan", "llama-3.1-8b", "--on", "hgx-h100", "--gpus", "8", "--isl", "1k", "--osl", "64")


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("4k", "4096"), ("4K", "4096"), ("128k", "131072"), ("1M", "1048576"), ("1.5k", "1536"),
        ("4,096", "4096"), ("1,048,576", "1048576"), ("131072", "131072"), (" 8k ", "8192"),
    ],
)  # fmt: skip
def test_as_digits(text: str, digits: str) -> None:
    assert as_digits(text) == digits


@pytest.mark.parametrize("text", ["4kk", "k", "1.0001k", "4,09", "4k tokens", "-4k", "4g", "0x1k"])
def test_what_is_no_number_stays_for_the_refusal(text: str) -> None:
    assert as_digits(text) == text
    refusal(*TRAIN[:-1], text)


def options() -> list[tuple[str, click.Option]]:
    context = click.Context(cli)
    found = [(name, cli.get_command(context, name)) for name in COMMANDS]
    return [(name, o) for name, c in found if c for o in c.params if isinstance(o, click.Option)]


@pytest.mark.parametrize("name, option", options(), ids=lambda v: getattr(v, "name", v))
def test_every_whole_number_is_read_alike(name: str, option: click.Option) -> None:
    """An option that shows N in its help takes 4k, in each command."""
    counted = option.make_metavar(click.Context(cli)) == "N"
    assert counted == (option.type is values.NUMBER_TYPE)
    if counted:
        assert option.type.convert("4k", option, None) == "4096"


SAME = [
    ((*TRAIN[:-1], "4k"), (*TRAIN[:-1], "4096")),
    ((*TRAIN, "--batch", "1,024"), (*TRAIN, "--batch", "1024")),
    ((*TRAIN, "--batch", "1_024"), (*TRAIN, "--batch", "1024")),
    ((*TRAIN, "--sweep", "batch=1k:2k:2"), (*TRAIN, "--sweep", "batch=1024:2048:2")),
    ((*TRAIN, "--batch", "64", "--gpus", "8-32"), (*TRAIN, "--batch", "64", "--gpus", "8,16,32")),
    ((*TRAIN, "--tp", "1-6"), (*TRAIN, "--tp", "1,2,3,4,6")),
    ((*TRAIN, "--tp", "1-2,4"), (*TRAIN, "--tp", "1,2,4")),
    ((*TRAIN, "--tp", "4-1000"), (*TRAIN, "--tp", "4,6,12")),
    ((*PLAN, "--tp", "1-8"), (*PLAN, "--tp", "1,2,4")),
    ((*PLAN, "--pp", "2-8", "--dp", "1-2"), (*PLAN, "--pp", "2,4,8", "--dp", "1,2")),
    ((*PLAN, "--micro-batch", "2-5"), (*PLAN, "--micro-batch", "2,4")),
    ((*SERVED, "--concurrency", "1k", "--tp", "2-8"),
     (*SERVED, "--concurrency", "1024", "--tp", "2,4,8")),
]  # fmt: skip


@pytest.mark.parametrize(("written", "plain"), SAME, ids=lambda v: " ".join(v[-4:]))
def test_the_answer_is_that_of_digits(written: tuple[str, ...], plain: tuple[str, ...]) -> None:
    one, other = answer(*written), answer(*plain)
    for record in (one, other):
        record.pop("elapsed_s", None)
    assert one == other


def test_experts_of_a_range_divide_them() -> None:
    argv = ("plan", "mixtral-8x7b", *SERVED[2:], "--concurrency", "16")
    found = answer(*argv, "--ep", "3-8", "--top", "1000")["layouts"]
    assert {row["ep"] for row in found} == {4, 8}


@pytest.mark.parametrize(
    ("argv", "field", "nearest"),
    [
        ((*PLAN, "--tp", "5-7"), "--tp", 4),
        ((*PLAN, "--ep", "2-8"), "--ep", 1),
        ((*PLAN, "--dp", "9-64"), "--dp", 8),
        ((*PLAN, "--tp", "1,,2"), "--tp", "1,2"),
        ((*TRAIN, "--gpus", "64-8"), "--gpus", None),
        (("estimate", *TRAIN[1:], "--tp", "1-8"), "--tp", 1),  # one layout has one degree
    ],
)
def test_ranges_of_nothing(argv: tuple[str, ...], field: str, nearest: object) -> None:
    error = refusal(*argv)
    assert (error["field"], error["nearest"]) == (field, nearest)


@pytest.mark.parametrize(
    ("argv", "nearest", "legal"),
    [
        ((*SERVED, "--tpot", "50"), "50 ms", "50 ms"),
        ((*SERVED, "--ttft", "500"), "500 ms", "500 ms"),
        ((*SERVED, "--ttft", "2"), "2 s", "500 ms"),
        ((*SERVED, "--tpot", "1 GB"), "50 ms", "50 ms"),
        (("run", "gpt2", "--timeout", "20000"), "120 s", "120 s"),
        ((*TRAIN, "--sweep", "inter.bandwidth=25:400"), "25 GB/s", "25 GB/s"),
        ((*TRAIN, "--sweep", "inter.latency=5"), "5 us", "2 us"),
        ((*TRAIN, "--sweep", "device.flops=500"), "500 TFLOP/s", "312 TFLOP/s"),
        ((*TRAIN, "--sweep", "device.memory_bandwidth=2000"), "2000 GB/s", "25 GB/s"),
        (("collective", "all_reduce", "64k", "--on", "dgx-a100"), "64 kB", "1.6 GB"),
        (("collective", "all_reduce", "0.5", "--on", "dgx-a100"), "0.5 GB", "1.6 GB"),
    ],
)
def test_a_number_without_a_unit_gets_one_that_makes_sense(
    argv: tuple[str, ...], nearest: str, legal: str
) -> None:
    error = refusal(*argv)
    assert error["nearest"] == nearest and legal in error["legal"]


@pytest.mark.parametrize("size", ["500", "1048576", "1,048,576", "1_048_576", "1,024 KiB"])
def test_a_bare_size_is_bytes_and_said(size: str) -> None:
    ran = run("collective", "all_reduce", size, "--on", "dgx-a100")
    assert ran.code == 0
    assert ("of 500 B " if size == "500" else "of 1.05 MB ") in ran.out.splitlines()[0]
