"""What every command keeps, whatever was asked: an answer or one line, figures that are figures, sums
that add up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from running import forms, run

# what may lie below zero: differences, and what is counted against a reference
SIGNED = ("difference", "change", "bias", "error", "gain", "delta", "to_best")
PARTS = ("compute_s", "exposed_comm_s", "bubble_s", "host_s")


class Refused(Exception):
    """A command that ended in one line: exit code, field and message."""

    def __init__(self, code: int, record: dict[str, Any]) -> None:
        super().__init__(record["error"]["message"])
        self.code, self.error = code, record["error"]


def ask(*argv: str, feasible: bool = False) -> dict[str, Any]:
    """The checked JSON of a command; raises :class:`Refused` for a refusal in one line. ``feasible``:
    exit code 3 stands for an answer too (no layout, and why)."""
    ran = run(*argv, "--json")
    said = " ".join(argv)
    assert ran.code in (0, 2, 3), (said, ran)
    assert ran.err == "", (said, ran.err)
    record: dict[str, Any] = ran.json()
    if ran.code == 2 or "error" in record:  # 3: a request that does not fit beside the weights
        error = record["error"]
        assert list(record) == ["error"], said
        assert error["field"] and error["message"] and error["legal"] not in (None, "", []), said
        assert "\n" not in error["message"], (said, error)
        raise Refused(ran.code, record)
    assert ran.code == 0 or not feasible, f"{said}: no feasible layout"
    return _sound(record, said)


def ask_and_read(*argv: str) -> dict[str, Any]:
    """As :func:`ask` and :func:`page`, of an answer that is computed once."""
    ran = forms(*argv)
    if ran.json is None:
        page(*argv)
        return ask(*argv)
    assert ran.page.strip() and ran.page.splitlines()[0] == ran.brief.rstrip("\n"), argv
    record: dict[str, Any] = ran.json
    return _sound(record, " ".join(argv))


def _sound(record: dict[str, Any], said: str) -> dict[str, Any]:
    wrong = list(faults(record))
    assert not wrong, (said, wrong)
    return record


def page(*argv: str) -> str:
    """What a reader sees: lines, or one line of refusal."""
    ran = run(*argv)
    said = " ".join(argv)
    assert ran.code in (0, 2, 3), (said, ran)
    if ran.code == 2 or (ran.code == 3 and not ran.out):
        assert ran.out == "" and len(ran.err.splitlines()) == 1, (said, ran)
    else:
        assert ran.out.strip() and ran.err == "", (said, ran)
    return ran.out


def faults(value: Any, where: str = "") -> Iterator[str]:
    """Numbers that are none or lie below zero, parts of a step that do not add up to it, ends of an
    interval that do not hold its middle."""
    if isinstance(value, dict):
        yield from _record(value, where)
        for key, inner in value.items():
            yield from faults(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from faults(inner, f"{where}[{i}]")
    elif isinstance(value, float | int) and not isinstance(value, bool):
        if not math.isfinite(value):
            yield f"{where} = {value}"
        elif value < 0 and not any(word in where.rpartition(".")[2] for word in SIGNED):
            yield f"{where} = {value} < 0"


def _record(r: dict[str, Any], where: str) -> Iterator[str]:
    if all(isinstance(r.get(name), float) for name in ("step_s", *PARTS)):
        whole = math.fsum(r[name] for name in PARTS)
        if not math.isclose(whole, r["step_s"], rel_tol=1e-12):
            yield f"{where}: {whole} = Σ parts ≠ step {r['step_s']}"
        by_axis = r.get("exposed_comm_by_axis_s")
        rows = r.get("communication")
        if by_axis is None and isinstance(rows, list):
            by_axis = {row["axis"]: row["exposed_s"] for row in rows}
        if by_axis is not None:
            sent = math.fsum(by_axis.values())
            if not math.isclose(sent, r["exposed_comm_s"], rel_tol=1e-9, abs_tol=1e-15):
                yield f"{where}: {sent} = Σ axes ≠ exposed {r['exposed_comm_s']}"
    for name in ("step", "tpot"):
        low, middle, high = (r.get(f"{name}{end}_s") for end in ("_low", "", "_high"))
        if None not in (low, middle, high) and not low <= middle * (1 + 1e-12) <= high * (
            1 + 2e-12
        ):
            yield f"{where}: {name} {low} … {middle} … {high}"
    parts = r.get("memory")
    if isinstance(parts, dict) and isinstance(r.get("memory_bytes"), float):
        held = math.fsum(parts.values())
        if not math.isclose(held, r["memory_bytes"], rel_tol=1e-9):
            yield f"{where}: {held} = Σ memory ≠ {r['memory_bytes']}"
        if r["fits"] != (r["memory_bytes"] <= r["memory_limit_bytes"]):
            yield f"{where}: fits is {r['fits']}"
