"""``meshwise read``: what is asked for, what is refused, and that ``validate`` takes what it finds."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from running import run

from meshwise.evidence.readers.kinds import FILE_KINDS

EXAMPLES = Path(__file__).parents[2] / "examples" / "read"
REDUCE, TOPOLOGY = str(EXAMPLES / "all_reduce.log"), str(EXAMPLES / "topo.txt")
MEGATRON, BENCH = str(EXAMPLES / "megatron.log"), str(EXAMPLES / "bench.jsonl")
RAN = ("--model", "llama-3.1-8b", "--device", "h100-80gb-sxm")


def test_json_has_file_line_and_si_units() -> None:
    read = run("read", REDUCE, TOPOLOGY, "--json").json()
    assert read["schema"] == 1
    assert [(f["file"], f["kind"], len(f["rows"])) for f in read["files"]] == [
        (REDUCE, "collectives", 4),
        (TOPOLOGY, "topology", 1),
    ]
    row = read["files"][0]["rows"][0]
    assert (row["id"], row["file"], row["line"]) == ("all_reduce.log/14", REDUCE, 14)
    assert row["time_s"] == pytest.approx(11.2e-6)


@pytest.mark.parametrize(
    "files, given, kinds",
    [
        ((REDUCE,), (), ["collectives"]),
        ((MEGATRON,), RAN, ["training"]),
        ((BENCH,), ("--device", "h100-80gb-sxm", "--gpus", "1"), ["serving"]),
        ((REDUCE, TOPOLOGY), (), ["collectives"]),
    ],
    ids=lambda v: " ".join(Path(w).name for w in v),
)
def test_validate_takes_what_read_finds(
    tmp_path: Path, files: tuple[str, ...], given: tuple[str, ...], kinds: list[str]
) -> None:
    path = str(tmp_path / "rows.json")
    assert run("read", *files, *given, "--json", "-o", path).code == 0
    told = run("validate", path, "--json").json()
    measured = [r for f in run("read", *files, *given, "--json").json()["files"] for r in f["rows"]]
    assert {r["status"] for r in told["rows"]} == {"ok"}
    assert told["kind"] == kinds[0]
    by_id = {r["id"]: r for r in measured}
    for row in told["rows"]:
        said = by_id[row["id"]].get(row["quantity"])
        assert row["line"] == by_id[row["id"]]["line"]
        assert said is None or row["measured"] == pytest.approx(said)


def test_csv_is_the_same_table(tmp_path: Path) -> None:
    as_json, as_csv = str(tmp_path / "rows.json"), str(tmp_path / "rows.csv")
    run("read", MEGATRON, *RAN, "--json", "-o", as_json)
    run("read", MEGATRON, *RAN, "--csv", "-o", as_csv)
    one, other = (run("validate", p, "--json").json()["rows"] for p in (as_json, as_csv))
    assert [(r["quantity"], r["predicted"], pytest.approx(r["measured"])) for r in one] == [
        (r["quantity"], r["predicted"], r["measured"]) for r in other
    ]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text("utf-8"))))
    assert rows[0]["step_s"] == "9.17"


def test_several_kinds_are_several_tables(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.json")
    run("read", REDUCE, MEGATRON, *RAN, "--json", "-o", path)
    told = run("validate", path, "--json").json()
    assert told["kind"] == "all"
    assert {"time_s", "step_s", "memory_bytes"} <= told["summary"].keys()
    refused = run("read", REDUCE, MEGATRON, *RAN, "--csv")
    assert refused.code == 2
    assert "collectives and training" in refused.err


def test_sizes_that_were_read_anchor_a_collective(tmp_path: Path) -> None:
    path = str(tmp_path / "rows.json")
    run("read", REDUCE, "--json", "-o", path)
    ask = ("collective", "all_reduce", "256MiB", "--on", "hgx-h100", "--ranks", "4", "--json")
    assert run(*ask, "--measured", path).json()["time_s"] == pytest.approx(1196e-6, rel=0.1)


def test_all_that_is_missing_is_asked_for_at_once() -> None:
    asked = run("read", BENCH)
    assert asked.code == 2
    assert asked.err.count("\n") == 1
    for option in ("--device", "--gpus", "--tp", "--pp"):
        assert f"{option} " in asked.err
    error = run("read", MEGATRON, "--json").json()["error"]
    assert error["field"] == "--model"
    assert error["legal"] == "for example `--model llama-3.1-8b --device h100-80gb-sxm`".replace(
        "`", ""
    )
    whole = run("read", BENCH, "--device", "h100-80gb-sxm", "--gpus", "8", "--tp", "4", "--pp", "1")
    assert whole.code == 0


@pytest.mark.parametrize(
    "given, field, said",
    [
        (("--tp", "8"), "--tp", "says '4'"),
        (("--device", "a100"), None, ""),
        (("--model", "llama-3.1-70b"), "--model", "num_layers 32"),
        (("--model", "llama-3.1-8bb"), "--model", "no preset"),
        (("--device", "h1000"), "--device", "nearest: h100"),
        (("--seq", "0"), "--seq", "whole number"),
        (("--software", "megatron-core-0.12"), None, ""),
        (("--software", "nemo-25.02"), None, ""),
        (("--software", "torchtitan-2024"), "--software", "says 'megatron'"),
        (("--op", "all_reduce"), "--op", "no file has rows that take it"),
    ],
)
def test_what_is_given_is_held_against_the_file(
    given: tuple[str, ...], field: str | None, said: str
) -> None:
    others = [
        w for pair in zip(RAN[::2], RAN[1::2], strict=True) if pair[0] != given[0] for w in pair
    ]
    ran = run("read", MEGATRON, *others, *given)
    assert ran.code == (0 if field is None else 2), ran.err
    assert field is None or (ran.err.startswith(f"meshwise: {field}") and said in ran.err), ran.err


def test_a_bad_line_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "cut.log"
    path.write_text(Path(REDUCE).read_text("utf-8").replace("  60.30  139.11", "   0.00  139.11"))
    refused = run("read", str(path))
    assert refused.code == 2
    assert "cut.log, line 16: " in refused.err
    assert "--skip-bad" in refused.err
    used = run("read", str(path), "--skip-bad", "--json").json()["files"][0]
    assert [r["line"] for r in used["rows"]] == [14, 15, 17]
    assert [r["line"] for r in used["refused"]] == [16]


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "is empty"),
        (b"\x7fELF\x02\x01\x00\x00 all_reduce_perf\n", "binary"),
        (b"plain words of another tool\n" * 50, "is of no kind that is read"),
        (b'{"model_type": "llama", "hidden_size": 4096}', "is of no kind that is read"),
        (b'{"completed": 3, "total_input', "whole JSON object expected"),
        (b"\x1f\x8b\x08\x00broken", "gzip's content expected"),
        (b"id,op,device\n", "is of no kind that is read"),
    ],
)
def test_a_file_of_no_kind_is_refused_in_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    ran = run("read", str(path), "--skip-bad")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert why in ran.err


def test_defaults_of_other_commands_give_no_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meshwise.toml").write_text('stack = "vllm"\non = "dgx-a100"\n')
    monkeypatch.setenv("MESHWISE_CONFIG", str(tmp_path / "meshwise.toml"))
    assert run("read", REDUCE).code == 0


def test_a_folder_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        assert run("read", str(path)).code == 2


def test_packed_files_and_those_of_windows_are_read_as_plain_ones(tmp_path: Path) -> None:
    text = Path(REDUCE).read_text("utf-8")
    contents = (
        gzip.compress(text.encode()),
        text.encode("utf-16"),
        b"\xef\xbb\xbf" + text.encode(),
    )
    for content in contents:
        path = tmp_path / "all_reduce.log"
        path.write_bytes(content)
        rows = run("read", str(path), "--json").json()["files"][0]["rows"]
        assert [r["line"] for r in rows] == [14, 15, 16, 17]


def test_files_of_one_name_have_ids_of_their_own(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "x.log")
        paths[-1].write_bytes(Path(REDUCE).read_bytes())
    read = run("read", *map(str, paths), "--json").json()["files"]
    ids = [r["id"] for f in read for r in f["rows"]]
    assert len(set(ids)) == len(ids) == 8
    assert all(one.count("/") == 1 for one in ids)  # what stands before it is the source


def test_every_key_of_a_row_is_in_the_reference() -> None:
    reference = EXAMPLES.parents[1] / "docs" / "reference"
    known = "".join((reference / name).read_text("utf-8") for name in ("json.md", "tables.md"))
    given = ("--model", "llama-3.1-8b", "--device", "h100-80gb-sxm")
    answers = (
        run("read", REDUCE, TOPOLOGY, MEGATRON, *given, "--json").json(),
        run("read", BENCH, *given[2:], "--gpus", "1", "--json").json(),
    )
    keys = {key for a in answers for f in a["files"] for row in f["rows"] for key in row}
    missing = [
        k
        for k in keys
        if not any(mark in known for mark in (f"`{k}`", f"[].{k}`", f"`{k},", f" {k},", f" {k}`"))
    ]
    assert not missing


def test_the_help_names_every_kind_that_is_read() -> None:
    text = " ".join(run("read", "--help").out.split()).replace("- ", "-")
    for kind in FILE_KINDS:
        assert kind.title.replace("- ", "-") in text, kind.title


def test_rows_of_a_broken_file_of_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for content in ("{", "{}", '{"schema": 1, "files": [1]}', '{"schema": 1, "files": []}'):
        path.write_text(content)
        ran = run("validate", str(path))
        assert ran.code == 2
        assert ran.err.count("\n") == 1
    path.write_text(json.dumps({"schema": 1, "files": [{"kind": "topology", "rows": [{}]}]}))
    assert "rows of training" in run("validate", str(path)).err
