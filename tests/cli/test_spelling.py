"""Fields of errors and sentences as a command writes them: its options are the only source."""

from __future__ import annotations

from typing import Any

import pytest

from meshwise.cli import cli
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
        ("validate", "table", "TABLE.csv"),
        ("serve", "kv_cache", "--kv-dtype"),
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
        ("serve", "for example `isl=2048, osl=256`", "for example --isl 2048 --osl 256"),
        ("estimate", "ep > 1, or `overlap_experts=False`", "ep > 1, or --no-overlap-experts"),
        ("estimate", "`sequence_parallel=True`, or tp 1", "--sequence-parallel, or tp 1"),
        ("estimate", "`overlap='none'`", "--overlap none"),
        ("plan", "`ttft_s=1, tpot_s=0.03`", "--ttft 1s --tpot 30ms"),
        ("estimate", "`osl` and `meshwise plan`", "`osl` and `meshwise plan`"),  # no option here
        ("estimate", "`tp=2, osl=3`", "`tp=2, osl=3`"),
        ("estimate", "`hostname` and --tp", "`hostname` and --tp"),
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
