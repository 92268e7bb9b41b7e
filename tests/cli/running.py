"""Run the command line in this process, as a user sees it."""

from __future__ import annotations

import contextlib
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
    assert list(error) == ["field", "value", "message", "legal", "nearest"]
    assert error["field"] and error["message"] and error["legal"]
    assert " ".join(error["message"].split()) in text.err
    return error
