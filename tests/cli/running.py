"""Run the command line in this process, as a user sees it."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import warnings
from typing import Any, NamedTuple

from meshwise.cli import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Strict JSON: NaN and Infinity are refused."""
        return json.loads(self.out, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def run(*argv: str) -> Ran:
    """Exit code and what was printed; any warning is an error, any exception a failed test."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(argv))
    return Ran(code, out.getvalue(), err.getvalue())


class Forms(NamedTuple):
    """What a command writes of one answer, in each of its forms; of a refusal the code alone."""

    code: int
    page: str
    brief: str
    detail: str
    json: Any


def forms(*argv: str) -> Forms:
    """Every form of an answer that is computed once: the command runs as it does without a form, and the
    answer that it writes is written in the other ones too."""
    from meshwise.cli import output

    texts: dict[str, str] = {}
    real = output.write_answer

    def written(o: Any, record: Any, page: Any, rows: str) -> None:
        record, page = functools.cache(record), functools.cache(page)
        for form, said in (("brief", "brief"), ("detail", "detail"), ("json", "as_json")):
            other = io.StringIO()
            with contextlib.redirect_stdout(other):
                real(o.but(**{said: True}), record, page, rows)
            texts[form] = other.getvalue()
        real(o, record, page, rows)

    output.write_answer = written
    try:
        ran = run(*argv)
    finally:
        output.write_answer = real
    if ran.code == 2 or (ran.code == 3 and not ran.out):
        assert len(ran.err.splitlines()) == 1, ran
        return Forms(ran.code, "", "", "", None)
    assert ran.code in (0, 3) and ran.err == "", ran
    record = json.loads(texts.pop("json"), parse_constant=_refuse)
    return Forms(ran.code, ran.out, **texts, json=record)


def answer(*argv: str) -> Any:
    """The JSON of a command that has to succeed."""
    ran = run(*argv, "--json")
    assert ran.code == 0, ran.out or ran.err
    assert ran.err == ""
    return ran.json()


def refusal(*argv: str) -> dict[str, Any]:
    """The error record of a command that has to be refused, checked in text and in JSON."""
    text = run(*argv)
    assert text.code == 2, (text, argv)
    assert text.out == ""
    assert len(text.err.splitlines()) == 1, text.err
    assert len(text.err) < 1500
    ran = run(argv[0], "--json", *argv[1:])
    assert (ran.code, ran.err) == (2, "")
    record = ran.json()
    assert list(record) == ["error"]
    error: dict[str, Any] = record["error"]
    assert list(error)[:5] == ["field", "value", "message", "legal", "nearest"]
    assert set(list(error)[5:]) <= {"file", "line", "asked", "commands"}  # of a text that was read
    assert error["field"] and error["message"] and error["legal"]
    assert " ".join(error["message"].split()) in text.err
    return error
