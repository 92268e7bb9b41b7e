"""Fields of errors and sentences as a command writes them: its options are the only source."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from running import refusal

import meshwise as mw
from meshwise import api
from meshwise.cli import cli
from meshwise.cli import spelling as spelled
from meshwise.cli.spelling import Spelling
from meshwise.errors import InputError


def spelling(command: str) -> Spelling:
    found = cli.get_command(None, command)  # type: ignore[arg-type]
    assert found is not None
    return Spelling(found.params)


def said(command: str, message: str, field: str, **more: Any) -> InputError:
    error = InputError(message, field=field, **more)
    spelling(command).error(error)
    return error


@pytest.mark.parametrize(
    ("command", "field", "written"),
    [
        ("estimate", "tp", "--tp"),
        ("estimate", "batch", "--batch"),
        ("estimate", "global_batch", "--global-batch"),  # another spelling of the same option
        ("plan", "batch", "--batch"),  # as the keyword, where it is one of the spellings
        ("estimate", "cluster", "--on"),
        ("estimate", "model", "MODEL"),
        ("import", "model", "--model"),
        ("collective", "size", "SIZE"),
        ("validate", "table", "TABLE"),
        ("serve", "kv_cache", "--kv-dtype"),
        ("import", "sequence_parallel", "--sequence-parallel"),  # of a layout, which it reads
        ("import", "expert_skew", "--expert-skew"),
        ("plan", "ttft_s", "--ttft"),
        ("scale", "sweep: values", "--sweep: values"),
    ],
)
def test_a_field_is_the_option_of_the_command(command: str, field: str, written: str) -> None:
    error = said(command, f"{field}=3: no", field)
    assert (error.field, error.message) == (written, f"{written}=3: no")


@pytest.mark.parametrize(
    "field",
    ["", "isl", "cluster.toml", "batch.json: hidden_size", "tp[0]", "--tp", "tps", "quantization"],
)
def test_what_is_no_option_of_the_command_stays_as_it_is(field: str) -> None:
    error = said("model" if field == "isl" else "estimate", f"{field}=3: no", field)
    assert (error.field, error.message) == (field, f"{field}=3: no")


def test_only_the_first_words_are_taken_for_the_field() -> None:
    assert said("estimate", "tpu: tp=3", "tp").message == "tpu: tp=3"
    assert said("estimate", "tp=3: tp of 3", "tp").message == "--tp=3: tp of 3"


@pytest.mark.parametrize(
    ("command", "text", "written"),
    [
        ("estimate", "leave `dp` out", "leave --dp out"),
        ("import", "`overlap_experts=False`", "--no-overlap-experts"),
        ("serve", "for example `isl=2048, osl=256`", "for example --isl 2048 --osl 256"),
        ("estimate", "ep > 1, or `overlap_experts=False`", "ep > 1, or --no-overlap-experts"),
        ("estimate", "`sequence_parallel=True`, or tp 1", "--sequence-parallel, or tp 1"),
        ("estimate", "`overlap='none'`", "--overlap none"),
        ("plan", "`ttft_s=1, tpot_s=0.03`", "--ttft 1s --tpot 30ms"),
        ("estimate", "`osl` and `meshwise plan`", "`osl` and `meshwise plan`"),  # no option here
        ("estimate", "`tp=2, osl=3`", "`tp=2, osl=3`"),
        ("estimate", "`hostname` and --tp", "`hostname` and --tp"),
        ("run", "no prediction: `tp`=3: no", "no prediction: --tp=3: no"),
        ("run", "no prediction: `hidden_size`: no", "no prediction: hidden_size: no"),
    ],
)
def test_a_mark_is_what_a_user_types(command: str, text: str, written: str) -> None:
    assert spelling(command).said(text) == written


def test_legal_and_nearest_are_spelt_and_values_are_not() -> None:
    error = said("estimate", "tp: no", "tp", value="`dp`", legal=["`dp`", 1], nearest="`dp=2`")
    assert (error.value, error.legal, error.nearest) == ("`dp`", ["--dp", 1], "--dp 2")


def test_all_texts_of_a_record_or_a_page_are_spelt() -> None:
    from meshwise.answers.text.tables import Page

    spelt = spelling("estimate")
    assert spelt.whole({"a": ["`dp`", ("x", 1.5)], "b": None}) == {
        "a": ["--dp", ("x", 1.5)],
        "b": None,
    }
    assert spelt.whole(Page("`dp`", ("with `tp`",))) == Page("--dp", ("with --tp",))


@pytest.mark.parametrize(
    ("message", "field", "marked"),
    [
        ("tp=3: no", "tp", "`tp`=3: no"),
        ("sweep: values=0 is below 1", "sweep: values", "`sweep`: values=0 is below 1"),
        ("tpu: no", "tp", "tpu: no"),
        ("config.json: no", "config.json: hidden_size", "config.json: no"),
        ("no", "", "no"),
    ],
)
def test_an_error_within_a_record_has_its_field_marked(
    message: str, field: str, marked: str
) -> None:
    assert InputError(message, field=field).marked() == marked


H100, TRAIN = "hgx-h100", ("--on", "hgx-h100", "--batch", "8", "--seq", "512")
LOAD = {"isl": 512, "osl": 64, "concurrency": 8}
SERVED = ("--on", H100, "--isl", "512", "--osl", "64", "--concurrency", "8")
VLLM = "vllm serve meta-llama/Llama-3.1-8B -tp 2"


def training(**more: Any) -> mw.Training:
    return mw.Training(batch=8, seq=512, **more)


FAULTS: list[tuple[str, Callable[[], object], tuple[str, ...]]] = [
    ("tp", lambda: mw.estimate("gpt2", H100, training(), tp=8), ("estimate", "gpt2", *TRAIN, "--tp", "8")),
    ("tp", lambda: mw.scale("gpt2", H100, training(), tp=[5]), ("scale", "gpt2", *TRAIN, "--tp", "5")),
    ("pp", lambda: mw.estimate("gpt2", H100, training(), pp=99), ("estimate", "gpt2", *TRAIN, "--pp", "99")),
    ("micro_batch", lambda: training(micro_batch=3), ("scale", "gpt2", *TRAIN, "--micro-batch", "3")),
    ("batch", lambda: mw.Training(batch=0, seq=8), ("estimate", "gpt2", *TRAIN, "--batch", "0")),
    ("sequence_parallel",
     lambda: mw.estimate("gpt2", H100, mw.Training(batch=8, seq=511), tp=2, sequence_parallel=True),
     ("estimate", "gpt2", "--on", H100, "--batch", "8", "--seq", "511", "--tp", "2", "--sequence-parallel")),
    ("dcp", lambda: mw.estimate("gpt2", H100, training(), dcp=2),
     ("export", "megatron-lm", "gpt2", "--on", H100, "--dcp", "2", "--batch", "8", "--seq", "512")),
    ("gpus", lambda: mw.estimate("gpt2", H100, training(), gpus=8), ("estimate", "gpt2", *TRAIN, "--gpus", "8")),
    ("model", lambda: mw.describe("gtp2"), ("model", "gtp2")),
    ("cluster", lambda: mw.scale("gpt2", "hgx", training()),
     ("scale", "gpt2", "--on", "hgx", "--batch", "8", "--seq", "512")),
    ("nodes", lambda: mw.cluster("4xh100", nodes=2), ("scale", "gpt2", *TRAIN, "--on", "4xh100", "--nodes", "2")),
    ("stack", lambda: mw.stack("vlm"), ("scale", "gpt2", *TRAIN, "--stack", "vlm")),
    ("weights", lambda: mw.Formats(weights="int9"), ("serve", "gpt2", *SERVED, "--weight-dtype", "int9")),
    ("kv_cache", lambda: mw.Formats(kv_cache="int3"), ("serve", "gpt2", *SERVED, "--kv-dtype", "int3")),
    ("acceptance", lambda: mw.Serving(**LOAD, draft_tokens=2), ("serve", "gpt2", *SERVED, "--draft-tokens", "2")),
    ("expert_skew", lambda: mw.serve("gpt2", H100, mw.Serving(**LOAD, expert_skew=1.0)),
     ("serve", "gpt2", *SERVED, "--expert-skew", "1")),
    ("objective", lambda: mw.plan("gpt2", H100, training(), objective="stp"),
     ("plan", "gpt2", *TRAIN, "--objective", "stp")),
    ("price_per_device_hour", lambda: mw.plan("gpt2", H100, training(), objective="cost"),
     ("plan", "gpt2", *TRAIN, "--objective", "cost")),
    ("free", lambda: mw.plan("gpt2", H100, training(), free=["dtyp"]), ("plan", "gpt2", *TRAIN, "--free", "dtyp")),
    ("disaggregated", lambda: mw.plan("gpt2", H100, mw.Serving(**LOAD), disaggregated=True),
     ("plan", "gpt2", *SERVED, "--disaggregated")),
    ("sweep", lambda: mw.sweep("gpt2", H100, training(), "bach=1,2"), ("scale", "gpt2", *TRAIN, "--sweep", "bach=1,2")),
    ("op", lambda: mw.collective("reduced", "1MB", H100), ("collective", "reduced", "1MB", "--on", H100)),
    ("size", lambda: mw.collective("all_reduce", "1 m", H100), ("collective", "all_reduce", "1 m", "--on", H100)),
    ("ranks", lambda: mw.collective("all_reduce", "1MB", H100, 9999),
     ("collective", "all_reduce", "1MB", "--on", H100, "--ranks", "9999")),
    ("isl", lambda: mw.read_command(VLLM, H100), ("import", VLLM, "--on", H100)),
    ("model", lambda: mw.read_command(VLLM, H100, model="gpt2", **LOAD),
     ("import", VLLM, *SERVED, "--model", "gpt2")),
    ("command", lambda: mw.read_command("ls -l", H100), ("import", "ls -l", "--on", H100)),
    ("kind", lambda: api.validate_published("train"), ("validate", "--published", "train")),
    ("table", lambda: mw.validate("none.csv"), ("validate", "none.csv")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "ask", "argv"), FAULTS, ids=[f"{argv[0]} {field}" for field, _, argv in FAULTS]
)
def test_one_fault_has_the_callers_names(
    field: str, ask: Callable[[], object], argv: tuple[str, ...]
) -> None:
    """Through Python an error names the keyword; through the command line it is the same error, with the
    option in the place of every field."""
    with pytest.raises(mw.MeshwiseError) as caught:
        ask()
    error = caught.value
    assert error.field.split(" ")[0].rstrip(":") == field and "--" not in str(error)
    assert field in re.split(r"\W", error.message)
    spelling(argv[0]).error(error)
    said = refusal(*argv)
    assert said["field"].startswith("--") or said["field"].isupper()
    mine = json.loads(json.dumps(error.to_dict()["error"], default=str))
    assert {k: v for k, v in mine.items() if k != "value"} == {
        k: v for k, v in said.items() if k != "value"
    }


def test_what_is_written_alike_in_all_commands_has_an_option() -> None:
    for name in spelled._ALIKE:
        assert str(spelling("model").field(name)).startswith("--"), name
