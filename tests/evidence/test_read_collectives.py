"""Output of nccl-tests as rows: what a run says of its system, what its columns tell, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwise.evidence.readers.reading import read_file
from meshwise.evidence.readers.records import FileFound, FileRow

REAL = Path(__file__).parents[3] / "shared" / "data" / "logs"
RUN = """\
# nccl-tests version 2.17.6 nccl-headers=22707 nccl-library=22707
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 0 maxBytes 268435456 step: 32(factor) warmup iters: 5 iters: 20 agg iters: 1 graph: 0
# Using devices
#  Rank  0 Group  0 Pid   4100 on   node-a device  0 [0000:0f:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   4101 on   node-a device  1 [0000:2d:00] NVIDIA H100 80GB HBM3
#  Rank  2 Group  0 Pid   5100 on   node-b device  0 [0000:0f:00] NVIDIA H100 80GB HBM3
#  Rank  3 Group  0 Pid   5101 on   node-b device  1 [0000:2d:00] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
           0             0      half     sum      -1     1.20    0.00    0.00       0     1.10    0.00    0.00       0
      262144        131072      half     sum      -1    14.90   17.59   26.39       0    14.70   17.83   26.75       0
   268435456     134217728      half     sum      -1   1196.0  224.44  336.67       0   1195.0  224.63  336.95       0
# Out of bounds values : 0 OK
# Collective test concluded: all_reduce_perf
"""


def found(tmp_path: Path, text: str) -> FileFound:
    path = tmp_path / "a.log"
    path.write_text(text, encoding="utf-8")
    (only,) = read_file(str(path))
    return only


def rows(tmp_path: Path, text: str) -> list[FileRow]:
    return list(found(tmp_path, text).rows)


def test_a_run_says_its_system_in_every_row(tmp_path: Path) -> None:
    read = found(tmp_path, RUN)
    first, last = read.rows
    assert (first.line, last.line) == (11, 12)
    assert first.values["time_s"] == pytest.approx(14.9e-6)
    assert last.values == {
        "op": "all_reduce",
        "device": "h100-80gb-sxm",
        "ranks": 4,
        "nodes": 2,
        "devices_per_node": 2,
        "library": "nccl-2.27.7",
        "bytes": 268435456,
        "dtype": "half",
        "time_s": pytest.approx(1196e-6),
    }
    assert read.remarks == ["lines of size 0 are left out: 1"]
    assert not read.refused


@pytest.mark.parametrize(
    "tag", ["[1,0]<stdout>:", "0: ", "2024-04-29T18:41:24.123456Z ", "[node-a]: "]
)
def test_tags_line_ends_and_blocks_change_nothing(
    tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [(r.line, r.values) for r in rows(tmp_path, RUN)]
    tagged = "".join(f"{tag}{line}\r\n" for line in RUN.splitlines())
    assert [(r.line, r.values) for r in rows(tmp_path, tagged)] == plain
    monkeypatch.setattr("meshwise.evidence.readers.lines._BLOCK", 97)  # lines over several blocks
    assert [(r.line, r.values) for r in rows(tmp_path, tagged)] == plain


def test_each_run_of_a_log_has_its_own_operation_and_ranks(tmp_path: Path) -> None:
    gather = RUN.replace("all_reduce", "all_gather").replace("sum", "none")
    gather = gather.replace("131072 ", " 32768 ").replace("134217728", " 33554432")
    gather = gather.replace(" 26.39 ", " 13.19 ").replace("336.67", "168.33")
    two = "\n".join(line for line in gather.splitlines() if "node-b" not in line)
    two = two.replace(" 32768 ", " 65536 ").replace(" 33554432", " 67108864")
    two = two.replace(" 13.19 ", "  8.80 ").replace("168.33", "112.22")
    read = rows(tmp_path, RUN + gather + two)
    told = [(r.values["op"], r.values["ranks"], r.values["nodes"]) for r in read]
    assert (
        told == [("all_reduce", 4, 2)] * 2 + [("all_gather", 4, 2)] * 2 + [("all_gather", 2, 1)] * 2
    )


def without_names(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "_perf" not in line)


@pytest.mark.parametrize(
    "reduction, root, part, op",
    [
        ("sum", "-1", 1, "all_reduce"),
        ("sum", "-1", 4, "reduce_scatter"),
        ("sum", "0", 1, "reduce"),
        ("none", "0", 1, "broadcast"),
        ("none", "-1", 1, "send_recv"),
        ("none", "-1", 4, None),  # all_gather and all_to_all print the same
    ],
)
def test_an_operation_that_no_line_names_is_told_by_its_columns(
    tmp_path: Path, reduction: str, root: str, part: int, op: str | None
) -> None:
    table = without_names(RUN).splitlines()
    for i, line in enumerate(table):
        if "134217728" in line:
            elements = str(134217728 // part).rjust(9)
            line = line.replace("134217728", elements).replace("sum      -1", f"{reduction} {root}")
            factor = {"all_reduce": 1.5, "reduce_scatter": 0.75}.get(
                op or "", 0.75 if part > 1 else 1.0
            )
            table[i] = line.replace("336.67", f"{224.44 * factor:.2f}")
    kept = [line for line in table if "   262144" not in line]
    (row,) = rows(tmp_path, "\n".join(kept))
    assert row.values.get("op") == op


@pytest.mark.parametrize(
    "old, new, line, expected",
    [
        ("1196.0  224.44", "0.0  224.44", 12, "agree expected"),
        ("1196.0  224.44", "nan     nan", 12, "agree expected"),
        ("1196.0  224.44", "-1196.0  224.44", 12, "agree expected"),
        ("  1196.0  224.44", "", 12, "agree expected"),
        ("336.67", "196.39", 12, "busbw / algbw = 1.5 expected of all_reduce on 4 ranks, found 0.875"),
        ("device  1 [0000:2d:00] NVIDIA H100 80GB HBM3\n#  Rank  2", "device  1 [0000:2d:00] NVIDIA A100-SXM4-80GB\n#  Rank  2", 8, "one device for all ranks expected"),
        ("Pid   5100 on   node-b", "Pid   4102 on   node-a", 5, "several ranks ran on one"),
        ("   time   algbw", "cputime   algbw", 11, "found the host's"),
    ],
)  # fmt: skip
def test_what_is_no_measurement_is_refused_by_its_line(
    tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    assert old in RUN
    refused = found(tmp_path, RUN.replace(old, new, 1)).refused
    assert any(r.line == line and expected in r.reason for r in refused), refused


def test_a_log_that_ends_within_a_line_keeps_the_whole_ones(tmp_path: Path) -> None:
    read = found(tmp_path, RUN[: RUN.index("268435456     134") + 9])
    assert [r.values["bytes"] for r in read.rows] == [262144]
    assert [(r.line, "cut short" in r.reason) for r in read.refused] == [(12, True)]


def json_run() -> dict[str, object]:
    device = {
        "group": 0,
        "device": 0,
        "device_hex": "0000:0f:00",
        "device_info": "NVIDIA H100 80GB HBM3",
    }
    result = {
        "size": 268435456,
        "count": 134217728,
        "type": "half",
        "redop": "sum",
        "root": "    -1",
    }
    out = {"time": 1196.0, "alg_bw": 224.44, "bus_bw": 336.67, "nwrong": 0.0}
    return {
        "version": 3,
        "args": ["build/all_reduce_perf", "-g", "2", "-J", "out.json"],
        "nccl_version": 22707,
        "config": {
            "nthreads": 1,
            "ngpus": 2,
            "graph": 0,
            # a process with several devices is listed by its first one
            "devices": [
                {**device, "rank": 0, "pid": 1, "hostname": "node-a"},
                {**device, "rank": 2, "pid": 9, "hostname": "node-b"},
            ],
        },
        "results": [{**result, "out_of_place": out, "in_place": out}],
    }


def test_json_of_a_run_says_what_its_text_does(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, json.dumps(json_run()))
    last = rows(tmp_path, RUN)[-1]
    assert row.values == {**last.values, "time_s": pytest.approx(1196e-6)}


def test_json_without_a_time_is_refused(tmp_path: Path) -> None:
    run = json_run()
    run["results"][0]["out_of_place"]["time"] = float("nan")  # type: ignore[index]
    read = found(tmp_path, json.dumps(run))
    assert not read.rows
    assert "finite number above 0" in read.refused[0].reason


@pytest.mark.skipif(not REAL.is_dir(), reason="logs of others are not here")
def test_real_logs_have_the_rows_that_were_counted_in_them() -> None:
    import csv

    with (REAL / "SOURCES.csv").open(encoding="utf-8") as file:
        counted = {r["file"]: r for r in csv.DictReader(file) if r["rows_in_collectives_csv"]}
    for name, source in counted.items():
        if name.startswith("odd-failed"):
            continue
        read = [f for f in read_file(str(REAL / name)) if f.kind == "collectives"]
        sizes = sum(len(f.rows) for f in read)
        said = int(source["rows_in_collectives_csv"])
        assert sizes == said or (
            name.endswith("steps.txt") and sizes == int(source["table_rows"])
        ), name
