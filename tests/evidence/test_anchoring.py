"""Rows that anchor the others of their system: `validate --anchor`, `collective --measured`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import meshwise as mw
from meshwise.cli import cli
from meshwise.errors import InputError
from meshwise.evidence.validate import PUBLISHED_FOLDER

HEADER = (
    *("id", "op", "device", "intra_node", "inter_node", "nodes", "devices_per_node", "ranks"),
    *("bytes", "time_us", "library"),
)
SIZES = [float(1 << k) for k in range(10, 31, 2)]


def rows_of(
    name: str,
    latency_s: float = 60e-6,
    rate: float = 150e9,
    ranks: int = 16,
    op: str = "all_reduce",
) -> list[dict[str, object]]:
    """A system over two nodes whose time is a latency and bytes at a rate."""
    return [
        dict(
            zip(
                HEADER,
                (f"{name}/{i}", op, "h100-80gb-sxm", "nvlink4", "InfiniBand 8x400 Gb/s per node", 2,
                 ranks // 2, ranks, size, 1e6 * (latency_s + size / rate), "nccl-2.20"),
                strict=True,
            )
        )
        for i, size in enumerate(SIZES)
    ]  # fmt: skip


def table(path: Path, *systems: list[dict[str, object]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        for rows in systems:
            writer.writerows(rows)
    return str(path)


def log(path: Path, latency_s: float, rate: float, ranks: int, op: str, device: str) -> str:
    lines = [f"# Collective test starting: {op}_perf"]
    lines += [
        f"#  Rank {r:2} Group  0 Pid 1{r} on node-{r // (ranks // 2)} device {r % (ranks // 2)} [0000:0{r % 8}:00] {device}"
        for r in range(ranks)
    ]
    lines.append("# size count type redop root time algbw busbw #wrong time algbw busbw #wrong")
    factor = 2 * (ranks - 1) / ranks
    for size in (8192.0, 1048576.0, 33554432.0, 1073741824.0):
        us = 1e6 * (latency_s + size / rate)
        algbw = size / us * 1e-3
        lines.append(
            f"{size:.0f} {size / 4:.0f} float sum -1 {us:.2f} {algbw:.2f} {algbw * factor:.2f} 0"
        )
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def errors(result: mw.ValidateResult) -> np.ndarray:
    return np.array([abs(r.error) for r in result.results if r.error is not None])


def test_four_rows_of_each_system(tmp_path: Path) -> None:
    mine = table(tmp_path / "t.csv", rows_of("slow", 200e-6, 80e9), rows_of("quick", 20e-6, 170e9))
    plain, found = mw.validate(mine), mw.validate(mine, anchor=4)
    given = [r for r in found.results if r.status == "anchor"]
    assert [r.id for r in given if r.id.startswith("slow")] == [
        "slow/1",
        "slow/5",
        "slow/7",
        "slow/10",
    ]
    assert len(given) == 8
    assert found.to_dict()["summary"]["time_s"]["n"] == len(plain.results) - 8  # not counted
    assert np.median(errors(found)) < 0.5 * np.median(errors(plain))
    slow, quick = found.to_dict()["anchors"]
    assert (slow["source"], quick["source"]) == ("slow", "quick")
    assert slow["latency_factor"] > 2 * quick["latency_factor"]
    assert slow["bandwidth_factor"] < quick["bandwidth_factor"]
    assert slow["rows"] == [r.id for r in given[:4]]
    # fewer sizes leave more open
    one = {r.id: r for r in mw.validate(mine, anchor=1).results if r.high and r.low}
    for r in found.results:
        if r.high and r.low and r.id in one:
            assert r.high / r.low <= 1.001 * one[r.id].high / one[r.id].low
    assert "Anchored by measured sizes" in str(found.page())
    assert found.to_dict()["summary"]["time_s"]["coverage"] > 0.8


def test_a_file_anchors_its_own_system_alone(tmp_path: Path) -> None:
    mine = table(
        tmp_path / "t.csv", rows_of("a", 200e-6, 80e9), rows_of("b", 200e-6, 80e9, ranks=8)
    )
    own = log(tmp_path / "own.log", 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    plain = {r.id: r.predicted for r in mw.validate(mine).results}
    found = mw.validate(mine, anchor=own)
    assert [a["ranks"] for a in found.to_dict()["anchors"]] == [16]
    for r in found.results:
        assert r.status == "ok"  # none of the table's own rows was given
        assert (r.predicted == plain[r.id]) == r.id.startswith("b/")


def test_rows_that_the_file_has_are_not_counted(tmp_path: Path) -> None:
    every = rows_of("a", 200e-6, 80e9)
    mine = table(tmp_path / "t.csv", every)
    some = table(tmp_path / "some.csv", [every[1], every[8]])
    found = mw.validate(mine, anchor=some)
    assert [r.id for r in found.results if r.status == "anchor"] == ["a/1", "a/8"]


@pytest.mark.parametrize(
    "anchor", ["0", "33", "missing.csv", "other.log", "training.csv", "nodevice.log"]
)
def test_what_anchors_nothing_is_refused(tmp_path: Path, anchor: str) -> None:
    mine = table(tmp_path / "t.csv", rows_of("a"))
    log(tmp_path / "other.log", 1e-4, 1e11, 16, "all_gather", "NVIDIA H100 80GB HBM3")
    log(tmp_path / "nodevice.log", 1e-4, 1e11, 16, "all_reduce", "")
    (tmp_path / "training.csv").write_text(
        "id,model,device,devices,global_batch,seq,step_s\nx,gpt2,h100,8,8,1024,1\n"
    )
    path = anchor if anchor.isdigit() else str(tmp_path / anchor)
    with pytest.raises(InputError) as caught:
        mw.validate(mine, anchor=path)
    assert caught.value.field == "anchor"


def test_a_table_of_another_kind_has_no_anchors() -> None:
    with pytest.raises(InputError, match="layers"):
        mw.validate(PUBLISHED_FOLDER / "layers.csv", anchor=4)


@pytest.mark.matrix
def test_published_logs_inside_a_node() -> None:
    """Four sizes of each log given, the others of it: the far ones are nearer than with none."""
    path = PUBLISHED_FOLDER / "collectives.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = {r["id"]: r for r in csv.DictReader(file)}

    def inside(result: mw.ValidateResult) -> dict[str, float]:
        return {
            r.id: abs(r.error)
            for r in result.results
            if r.error is not None and int(rows[r.id]["nodes"] or 1) == 1
        }

    found = inside(mw.validate(path, anchor=4))
    plain = inside(mw.validate(path))
    left = [plain[k] for k in found]
    assert np.quantile(list(found.values()), 0.9) < 0.75 * np.quantile(left, 0.9)


# -- one collective --------------------------------------------------------------------------------


def test_a_log_of_ones_own_anchors_an_answer(tmp_path: Path) -> None:
    own = log(tmp_path / "own.log", 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    for size in (65536.0, 4e6, 2e8):
        plain = mw.collective("all_reduce", size, "hgx-h100", 16)
        found = mw.collective("all_reduce", size, "hgx-h100", measured=own)
        truth = 200e-6 + size / 80e9
        assert found.to_dict()["ranks"] == 16  # the log says it
        assert abs(np.log(found.time_s / truth)) < abs(np.log(plain.time_s / truth))
        assert found.time_low_s < truth < found.time_high_s
        anchored: Any = found.to_dict()["anchored"]
        assert anchored["latency_factor"] > 1.5
        assert [r["bytes"] for r in anchored["rows"]] == [8192, 1 << 20, 32 << 20, 1 << 30]
        assert plain.to_dict()["anchored"] is None
        assert "4 measured sizes" in str(found.page())


def test_one_answer_by_both_commands(tmp_path: Path) -> None:
    """`collective --measured` and `validate --anchor` of the same sizes price a row alike."""
    own = log(tmp_path / "own.log", 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    mine = table(tmp_path / "t.csv", rows_of("a"))
    predicted = {SIZES[int(r.id[2:])]: r for r in mw.validate(mine, anchor=own).results}
    row = predicted[float(1 << 20)]
    found = mw.collective("all_reduce", float(1 << 20), "hgx-h100", 16, measured=own)
    assert row.predicted is not None
    assert found.time_s == pytest.approx(row.predicted, rel=0.05)


@pytest.mark.parametrize(
    "op, device, ranks, field",
    [("all_gather", "h100", 16, "measured"), ("all_reduce", "dgx-a100", 16, "measured"),
     ("all_reduce", "h100", 8, "measured")],
)  # fmt: skip
def test_another_systems_log_is_refused(
    tmp_path: Path, op: str, device: str, ranks: int, field: str
) -> None:
    own = log(tmp_path / "own.log", 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    with pytest.raises(InputError) as caught:
        mw.collective(op, "1MiB", "hgx-h100" if device == "h100" else device, ranks, measured=own)
    assert caught.value.field == field
    with pytest.raises(InputError, match="ideal"):
        mw.collective("all_reduce", "1MiB", "hgx-h100", 16, measured=own, stack="ideal")


def test_a_log_without_its_operation_is_told_by_its_bus_bandwidth(tmp_path: Path) -> None:
    path = tmp_path / "own.log"
    log(path, 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    path.write_text(path.read_text().replace("# Collective test starting: all_reduce_perf\n", ""))
    assert mw.collective("all_reduce", "1MiB", "hgx-h100", measured=path).time_s > 0
    with pytest.raises(InputError, match="bus bandwidth"):
        mw.collective("all_gather", "1MiB", "hgx-h100", measured=path)


def test_on_the_command_line(tmp_path: Path) -> None:
    own = log(tmp_path / "own.log", 200e-6, 80e9, 16, "all_reduce", "NVIDIA H100 80GB HBM3")
    argv = ["collective", "all_reduce", "1MiB", "--on", "hgx-h100", "--measured", own, "--json"]
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["anchored"]["bandwidth_factor"] < 1.0
    mine = table(tmp_path / "t.csv", rows_of("a", 200e-6, 80e9))
    done = CliRunner().invoke(cli, ["validate", mine, "--anchor", own, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["anchors"][0]["rows"][0].startswith("line ")


# -- whose library ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cluster, stack", [("hgx-h100", "nccl"), ("mi300x-node", "rccl"), ("gaudi2-node", "nccl"), ("tpu-v5p-pod", "nccl")]
)  # fmt: skip
def test_the_devices_own_library(cluster: str, stack: str) -> None:
    found = mw.collective("all_reduce", "1MiB", cluster).to_dict()
    assert found["stack"] == stack
    assert found == {
        **mw.collective("all_reduce", "1MiB", cluster, stack=stack).to_dict(),
        "remarks": found["remarks"],
    }
    assert any("stand in" in r for r in found["remarks"]) == (cluster != "hgx-h100")
    names = {c["algorithm"] for c in found["candidates"]}
    assert not names & {"one_shot", "two_shot", "multimem"}


def test_an_engines_kernels_are_asked_for() -> None:
    engine = mw.collective("all_reduce", "64KiB", "hgx-h100", stack="vllm")
    assert engine.algorithm == "one_shot"
    assert engine.time_s < mw.collective("all_reduce", "64KiB", "hgx-h100").time_s


@pytest.mark.parametrize(
    "library", ["nccl-2.29.2", "nccl (2021, version not stated)", "", "NCCL 2.18"]
)
def test_rows_of_a_library_are_priced_as_the_command_prices_it(
    tmp_path: Path, library: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,op,device,intra_node,ranks,bytes,time_us,library\n"
        f'a/1,alltoall,h100,nvlink4,8,1048576,30,"{library}"\n'
    )
    [row] = mw.validate(path).results
    assert row.predicted == pytest.approx(
        mw.collective("all_to_all", 1 << 20, "hgx-h100", 8).time_s
    )
