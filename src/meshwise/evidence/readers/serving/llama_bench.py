"""Reads what llama-bench of llama.cpp prints: JSON, lines of JSON, and Markdown."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import quoted
from meshwise.evidence.readers.collectives.run import known_device
from meshwise.evidence.readers.documents import JsonObject, text_at
from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    FileValue,
    RefusedLine,
    count_or_none,
    positive,
    without_empty,
)

_FORM = "llama-bench"
_KEYS = {"n_prompt", "n_gen", "avg_ts"}
_TEST = re.compile(r"(pp|tg)(\d+)(?: @ d(\d+))?")
_RATE = re.compile(r"([\d.]+|-?nan|inf)(?:\s*±.*)?")
_DEVICE = re.compile(r"Device \d+: (.+?), compute capability")
_PLAIN = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_STORED = re.compile(r"(.+?)(?: all| mostly)? ((?:B?F|I?Q|TQ|MXFP)\d\S*(?: - \w+)?)")
_ENGINE = "llama.cpp"
_Run = dict[str, FileValue | None]


def claims_generation(content: dict[str, Any]) -> bool:
    """Whether an object is a test of llama-bench that generates."""
    return content.keys() >= _KEYS and bool(count_or_none(content["n_gen"]))


def claims_prompt(content: dict[str, Any]) -> bool:
    """Whether an object is a test of llama-bench of a prompt alone."""
    return content.keys() >= _KEYS and not count_or_none(content["n_gen"])


def read_generation(objects: list[JsonObject]) -> FileFound:
    """A row for each test that generates."""
    return _found("serving", objects)


def read_prompt(objects: list[JsonObject]) -> FileFound:
    """A row for each test of a prompt."""
    return _found("prefill", objects)


def _found(kind: str, objects: list[JsonObject]) -> FileFound:
    rows, refused = list[FileRow](), list[RefusedLine]()
    for line, content in objects:
        found = _test(content)
        if isinstance(found, str):
            refused.append(RefusedLine(line, found))
        else:
            rows.append(FileRow(line, without_empty(found)))
    return FileFound(kind, _FORM, rows, refused)


def _test(content: dict[str, Any]) -> _Run | str:
    prompt, generated = count_or_none(content["n_prompt"]), count_or_none(content["n_gen"])
    if prompt and generated:
        return "a prompt or a generation expected, found both in one figure"
    if content.get("n_gpu_layers") == 0:
        return "layers on a GPU expected, found n_gpu_layers 0"
    if content.get("embeddings"):
        return "a language model expected, found embeddings"
    timed = _timed(content["avg_ts"], prompt, generated, count_or_none(content.get("n_depth")))
    if isinstance(timed, str):
        return timed
    names = [n.strip() for n in (text_at(content, "gpu_info") or "").split(",") if n.strip()]
    return {
        **_hardware(names),
        **_split(content, len(names)),
        **_model(text_at(content, "model_type")),
        **timed,
    }


def _timed(
    rate: object, prompt: int | None, generated: int | None, depth: int | None
) -> _Run | str:
    """One sequence: the time per token of a generation behind ``depth`` tokens (the first one where there
    are none), or of a whole prompt."""
    value = positive(rate, "tokens per second")
    if isinstance(value, str):
        return value
    if generated:
        return {"isl": depth or 1, "osl": generated, "concurrency": 1, "tpot_s": 1.0 / value}
    if prompt:
        return {"seq": prompt, "batch": 1, "cached": depth, "step_s": prompt / value}
    return "tokens of a prompt or of a generation expected, found 0"


def _hardware(names: list[str]) -> _Run:
    """The devices of a test, of one kind."""
    known = {known_device(name) or name for name in names}
    if len(known) != 1:
        return {"device_said": ", ".join(sorted(known)) or None}
    name = known.pop()
    return {
        "device": known_device(name),
        "device_said": None if known_device(name) else name,
        "devices": len(names),
    }


def _split(content: dict[str, Any], devices: int) -> _Run:
    """How layers are divided: by layers they are stages, by rows tensor parallel."""
    mode = content.get("split_mode")
    if devices <= 1:
        return {}
    if mode == "layer":
        return {"tp": 1, "pp": devices}
    return {"tp": devices, "pp": 1} if mode == "row" else {}


def _model(words: str | None) -> _Run:
    """The model of ``llama 7B Q4_K - Medium``, and how its weights are stored."""
    found = _STORED.fullmatch(words or "")
    if found is None:
        return {"model": words, "engine": _ENGINE}
    dtype = _PLAIN.get(found[2].lower())
    stored = None if dtype else found[2]
    return {"model": found[1], "dtype": dtype, "dtype_said": stored, "engine": _ENGINE}


class LlamaBenchTable:
    """The Markdown table, below the devices that the library names."""

    def __init__(self, kind: str = "serving") -> None:
        self._kind = kind
        self._columns: list[str] = []
        self._devices: list[str] = []
        self._rows: list[FileRow] = []
        self._refused: list[RefusedLine] = []

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return ("t/s", "compute capability", *(("|",) if self._columns else ()))

    def feed(self, number: int, line: str) -> None:
        """One line of the output."""
        if "|" not in line:
            device = _DEVICE.search(line) if "Device " in line else None
            if device:
                self._devices.append(device[1])
            elif self._columns and line.strip():
                self._columns = []
            return
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "test" in cells and "t/s" in cells and "model" in cells:
            self._columns = cells
        elif self._columns and not set(line) <= set("|-: \r"):
            self._row(number, cells)

    def _row(self, number: int, cells: list[str]) -> None:
        if len(cells) != len(self._columns):
            if self._kind == "serving":
                why = f"{len(self._columns)} cells expected, found {quoted(' | '.join(cells))}"
                self._refused.append(RefusedLine(number, why))
            return
        said = dict(zip(self._columns, cells, strict=True))
        test, rate = _TEST.fullmatch(said["test"]), _RATE.fullmatch(said["t/s"])
        if test is None:
            if self._kind == "serving":
                why = f"a test of a prompt (pp512) or a generation (tg128) expected, found {quoted(said['test'])}"
                self._refused.append(RefusedLine(number, why))
            return
        prompt = test[1] == "pp"
        if prompt != (self._kind == "prefill"):
            return
        number_of, depth = int(test[2]), int(test[3] or 0)
        timed = _timed(
            rate[1] if rate else said["t/s"],
            number_of if prompt else None,
            None if prompt else number_of,
            depth,
        )
        if said.get("ngl") == "0":
            timed = "layers on a GPU expected, found ngl 0"
        if isinstance(timed, str):
            self._refused.append(RefusedLine(number, timed))
            return
        mode = {"split_mode": said.get("sm", "layer")}
        where = {**_hardware(self._devices), **_split(mode, len(self._devices))}
        self._rows.append(
            FileRow(number, without_empty({**where, **_model(said["model"]), **timed}))
        )

    def found(self) -> FileFound:
        """The rows of every table."""
        return FileFound(self._kind, _FORM, self._rows, self._refused)


class LlamaPromptTable(LlamaBenchTable):
    """The prompts of the same tables."""

    def __init__(self) -> None:
        super().__init__("prefill")
