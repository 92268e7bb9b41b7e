"""A training row as the command line has it: other words, what it leaves open, what it cannot have measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rows_of_tables import DATA_PARALLEL, SERVING, TRAINING, outcome, text

from meshwise.cli import main
from meshwise.errors import InputError
from meshwise.evidence.rows.job import read_training_row
from meshwise.evidence.rows.open_values import settle
from meshwise.evidence.tables import MAX_TABLE_BYTES, Row, parse_table, read_table
from meshwise.evidence.validate import error_summary, row_results

RACKS = {
    **TRAINING,
    "model": "llama-3.1-70b",
    "device": "gb200",
    "devices": "64",
    "tp": "8",
    "pp": "1",
    "dp": "8",
    "intra_node": "",
    "inter_node_gbytes_per_s": "",
    "attention": "",
    "dtype": "bf16",
    "stack": "nemo",
}


def job(**cells: str):  # type: ignore[no-untyped-def]
    return read_training_row(Row(2, DATA_PARALLEL | cells), Path()).job


def priced(**cells: str) -> float:
    (found,) = outcome(DATA_PARALLEL | cells)
    assert found.status == "ok", found.reason
    return float(found.predicted or 0.0)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("shard", {"none": ["ddp", "DDP", "no_shard", "0"], "zero1": ["zero-1", "ZeRO 1",
          "distributed optimizer"], "zero3": ["fsdp", "FSDP2", "hsdp", "full_shard", "zero_3"]}),
        ("recompute", {"none": ["None", "off", "no"], "full": ["Full", "block", "uniform"],
          "selective": ["sel", "core_attn"]}),
        ("dtype", {"fp8": ["fp8-cs", "FP8", "float8", "fp8_hybrid"], "mxfp8": ["fp8-mx"],
          "bf16": ["bfloat16", "bf16-mixed"], "nvfp4": ["NVFP4", "fp4"]}),
        ("attention", {"flash3": ["fa3", "flash-attn 3", "cudnn", "te"], "flash2": ["sdpa",
          "flash_attention_2", "flash-attn-2.5.8"], "unfused": ["eager", "math"]}),
        ("sequence_parallel", {"true": ["True", "yes", "1"], "false": ["no", "0"]}),
        ("optimizer", {"adam": ["AdamW", "cpu-adam"], "muon": ["Muon"]}),
    ],
)  # fmt: skip
def test_other_words_mean_the_same(column: str, words: dict[str, list[str]]) -> None:
    for plain, others in words.items():
        for other in others:
            assert job(**{column: other}) == job(**{column: plain}), other


def test_a_kernel_later_than_those_that_are_priced_is_the_last_of_them() -> None:
    assert job(attention="flash4").stack.flash_version >= 3
    assert "flash9" in outcome(DATA_PARALLEL | {"attention": "flash9"})[0].reason


@pytest.mark.parametrize("column", ["shard", "recompute", "optimizer", "offload", "memory_of"])
def test_a_word_that_is_not_known_is_one_line(column: str) -> None:
    bad, fine = outcome(
        DATA_PARALLEL | {column: "gossip", "memory_gib": "40"}, DATA_PARALLEL | {column: ""}
    )[:2]
    assert bad.status == "invalid"
    assert f"column {column}: 'gossip' is not known" in bad.reason
    assert fine.status == "ok"


def test_a_row_is_the_job_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    cells = {"recompute": "full", "offload_optimizer": "true", "shard": "zero1", "loss_chunks": "4"}
    ours = priced(**cells, device="dgx-a100", intra_node="", inter_node_gbytes_per_s="")
    words = "estimate llama-2-7b --on dgx-a100 --nodes 2 --tp 4 --dp 4 --batch 64 --seq 2048 --micro-batch 1"
    said = "--recompute full --offload-optimizer --shard zero1 --loss-chunks 4 --sequence-parallel"
    assert main([*words.split(), *said.split(), "--stack", "megatron-core", "--dtype", "bf16",
                 "--attention", "flash", "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out)["step_s"] == pytest.approx(ours, rel=1e-12)


@pytest.mark.parametrize("stated", ["", "4", "72"])
def test_a_rack_is_one_domain(stated: str) -> None:
    read = read_training_row(Row(2, RACKS | {"devices_per_node": stated}), Path())
    assert [level.ranks for level in read.job.cluster.levels] == [64]


def test_racks_beyond_one_give_the_same_part_each() -> None:
    many = RACKS | {"devices": "256", "dp": "32", "devices_per_node": "4"}
    levels = read_training_row(Row(2, many), Path()).job.cluster.levels
    assert [level.ranks for level in levels] == [64, 4]


@pytest.mark.parametrize(
    "column",
    ["tp", "dp", "cp", "dtype", "attention", "stack", "micro_batch", "recompute", "shard",
     "sequence_parallel", "devices_per_node", "intra_node", "inter_node_gbytes_per_s"],
)  # fmt: skip
def test_what_is_left_open_is_answered_and_assumed(column: str) -> None:
    whole = DATA_PARALLEL | {"cp": "1", "shard": "zero1", "recompute": "full", "vp": "1"}
    fields = {a.field for a in outcome(whole)[0].assumed}
    (open_,) = outcome(whole | {column: ""})
    assert open_.status == "ok"
    assert {a.field for a in open_.assumed} - fields == {column}


def test_degrees_that_are_left_out_follow_from_the_others() -> None:
    assert job(dp="").layout.dp == 4
    assert job(tp="").layout.tp == 4
    nothing = job(tp="", pp="", dp="", cp="").layout
    assert (nothing.tp, nothing.pp, nothing.dp, nothing.cp) == (1, 1, 16, 1)
    assert "does not divide" in outcome(DATA_PARALLEL | {"dp": "", "tp": "5"})[0].reason


@pytest.mark.parametrize(
    ("column", "extremes"),
    [
        ("micro_batch", ("1", "16")),
        ("recompute", ("none", "full")),
        ("inter_node_gbytes_per_s", ("6.25", "50")),
        ("sequence_parallel", ("false", "true")),
    ],
)
def test_the_interval_spans_the_legal_values(column: str, extremes: tuple[str, str]) -> None:
    whole = DATA_PARALLEL | {"shard": "zero1", "recompute": "none"}
    (open_,) = outcome(whole | {column: ""})
    (closed,) = outcome(whole | {column: next(a.value for a in open_.assumed if a.field == column)})
    assert open_.predicted == closed.predicted
    reach = [float(outcome(whole | {column: e})[0].predicted or 0) for e in extremes]
    for value in reach:
        ratio = value / float(closed.predicted or 1)
        assert open_.low <= 1.0001 * closed.low * min(ratio, 1)  # type: ignore[operator]
        assert open_.high >= 0.9999 * closed.high * max(ratio, 1)  # type: ignore[operator]


def test_a_run_that_ran_is_sharded_and_recomputed_as_far_as_it_has_to() -> None:
    large = DATA_PARALLEL | {"model": "llama-2-70b", "shard": "", "recompute": ""}
    found = settle(read_training_row(Row(2, large), Path()), True)
    e = found.estimate
    assert float(e.memory_bytes) <= 1.2 * e.cluster.device.memory_bytes
    said = {a.field: a.value for a in found.assumed}
    assert said["shard"] != "none"
    small = settle(read_training_row(Row(2, large | {"model": "llama-2-7b"}), Path()), True)
    assert {"shard": "none", "recompute": "none"}.items() <= {
        a.field: a.value for a in small.assumed
    }.items()


def test_a_stack_of_ones_own_stands_in_for_software_that_is_not_known(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(
        'title = "Mine"\nlike = "megatron-core"\n\n[host]\nhost_s = 2.5\n\n[source]\nhost_s = "measured"\n',
        encoding="utf-8",
    )
    table = tmp_path / "t.csv"
    table.write_text(
        text(DATA_PARALLEL | {"stack": "mine"}, DATA_PARALLEL | {"stack": "megatron-core"}),
        encoding="utf-8",
    )
    out = tmp_path / "o.json"
    assert main(["validate", str(table), "--stack", str(own), "--json", "-o", str(out)]) == 0
    mine, core = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert mine["predicted"] == pytest.approx(core["predicted"] + 2.5, rel=1e-3)
    assert {"field": "stack", "value": "mine"} in mine["assumed"]
    assert "stack" not in {a["field"] for a in core["assumed"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[host]\nhots_s = 1.0\n", "host_s"),
        ("[host]\njitter = 7.0\n", "jitter"),
        ('like = "mine.toml"\n', "circle"),
    ],
)
def test_a_stack_file_that_is_wrong_is_one_line(
    content: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, table = tmp_path / "mine.toml", tmp_path / "t.csv"
    own.write_text(content, encoding="utf-8")
    table.write_text(text(DATA_PARALLEL), encoding="utf-8")
    assert main(["validate", str(table), "--stack", str(own)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert words in err


def test_an_unknown_engine_is_priced_as_the_generic_one() -> None:
    (known,) = outcome(SERVING)
    for name in ("abacus", ""):
        (found,) = outcome(SERVING | {"engine": name})
        assert found.status == "ok"
        assert {"stack"} <= {a.field for a in found.assumed}
        assert found.predicted == pytest.approx(known.predicted, rel=0.5)


@pytest.mark.parametrize("name", ["LLaMA-Factory", "axolotl-0.5", "composer", "llmq-2025", "levanter",
                                  "megatron-bridge-26.04", "nemo@26.04", "HF-Trainer"])  # fmt: skip
def test_software_that_is_known_by_another_name(name: str) -> None:
    assert "stack" not in {a.field for a in outcome(DATA_PARALLEL | {"stack": name, "tp": "1",
                           "dp": "16", "sequence_parallel": ""})[0].assumed}  # fmt: skip


def test_a_year_alone_is_the_last_state_of_it() -> None:
    from meshwise.stacks.load import stack_in_table

    peak = {
        year: stack_in_table(f"torchtitan-{year}-compile").loss_peak_bytes  # type: ignore[union-attr]
        for year in ("2024", "2025-03", "2025", "2025-08")
    }
    assert peak["2024"] == peak["2025-03"] == 12.0
    assert peak["2025"] == peak["2025-08"] == 4.0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"step_s": "-2"}, "-2 is not above 0"),
        ({"step_s": "0.01"}, "peak FLOP/s"),
        ({"memory_gib": "95"}, "NVIDIA A100"),
    ],
)
def test_what_nothing_could_measure_is_suspect_and_not_counted(
    change: dict[str, str], word: str
) -> None:
    results = outcome(DATA_PARALLEL | change, DATA_PARALLEL)
    assert [r.status for r in results] == ["suspect", "ok"]
    assert word in results[0].reason
    found = error_summary(results)["step_s"]
    assert (found["n"], found["suspect"]) == (1, 1)


def test_a_collective_above_its_wire_is_suspect() -> None:
    wire = {
        "id": "mine/7",
        "op": "all_reduce",
        "device": "h100-80gb-sxm",
        "intra_node": "nvlink4",
        "ranks": "8",
        "bytes": "1e9",
        "library": "nccl",
    }
    fast, good = outcome(*(wire | {"time_us": t} for t in ("500", "3800")))
    assert (fast.status, good.status) == ("suspect", "ok")
    assert "wire" in fast.reason


def test_two_rows_of_one_id_and_a_misspelt_column_are_one_line_each() -> None:
    cells = {k: v for k, v in DATA_PARALLEL.items() if k != "micro_batch"}
    lines = text(cells | {"micro_batchs": "4"}).splitlines()
    results = row_results(parse_table("\n".join([*lines, lines[1]]), "t.csv"), Path())
    column, first, second = results
    assert (column.line, column.status) == (1, "invalid")
    assert column.reason == "line 1, column micro_batchs: is not read; nearest: micro_batch"
    assert first.status == "ok"
    assert second.status == "invalid"
    assert "is the id of line 2 too" in second.reason


def test_a_column_that_is_no_slip_is_only_named() -> None:
    (found,) = outcome(DATA_PARALLEL | {"colour_of_rack": "blue"})
    assert found.status == "ok"


def test_a_table_of_200_mb_is_refused_in_one_line(tmp_path: Path) -> None:
    large = tmp_path / "t.csv"
    with large.open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(InputError, match="209,715,200 bytes") as caught:
        read_table(str(large))
    assert f"{MAX_TABLE_BYTES >> 20} MiB" in str(caught.value)


def test_memory_is_compared_with_what_the_row_measured() -> None:
    own = DATA_PARALLEL | {"step_s": "", "memory_gib": "40"}
    kinds = ("", "allocated", "reserved", "device")
    said = {k: outcome(own | {"memory_of": k})[0] for k in kinds}
    assert said["allocated"].predicted < said["reserved"].predicted < said["device"].predicted
    assert said[""].predicted == said["allocated"].predicted
    assert said[""].high > said["device"].predicted
    assert {"memory_of"} <= {a.field for a in said[""].assumed}


def test_what_is_offloaded_is_a_column() -> None:
    def memory(**cells: str) -> float:
        (found,) = outcome(DATA_PARALLEL | {"step_s": "", "memory_gib": "40"} | cells)
        return float(found.predicted or 0)

    plain, state, kept = memory(), memory(offload="optimizer"), memory(offload="activations")
    assert state < plain
    assert kept < plain
    assert memory(offload="optimizer+activations") < min(state, kept)
    assert state == memory(offload_optimizer="true")
    assert memory(optimizer="adamw-8bit") == memory(optimizer="adam", moments_dtype="fp8") < plain
    assert priced(offload="optimizer") > priced()


def test_trays_of_a_rack_are_one_domain_of_a_collective() -> None:
    rack = {
        "id": "mine/8",
        "op": "all_reduce",
        "device": "gb200",
        "intra_node": "nvlink5",
        "inter_node": "",
        "nodes": "18",
        "devices_per_node": "4",
        "ranks": "72",
        "bytes": "1073741824",
        "library": "nccl",
        "time_us": "3100",
    }
    (found,) = outcome(rack)
    assert found.status == "ok"
    assert found.predicted == pytest.approx(3.1e-3, rel=0.5)
    assert {a.field for a in found.assumed} == {"devices_per_node"}


def test_a_network_whose_rate_is_not_stated_is_the_usual_one_and_spans_others() -> None:
    nodes = {
        "id": "mine/9",
        "op": "all_reduce",
        "device": "h100-80gb-sxm",
        "intra_node": "nvlink4",
        "inter_node": "InfiniBand",
        "nodes": "2",
        "devices_per_node": "8",
        "ranks": "16",
        "bytes": "1073741824",
        "library": "nccl",
        "time_us": "6000",
    }
    open_, closed = outcome(nodes, nodes | {"inter_node": "InfiniBand 8x400 Gb/s"})
    assert open_.status == closed.status == "ok"
    assert "inter_node" in {a.field for a in open_.assumed}
    assert open_.predicted == pytest.approx(closed.predicted, rel=0.05)
    assert open_.high > 2.0 * closed.high  # type: ignore[operator]


def test_an_open_microbatch_is_the_largest_that_fits_but_beside_stages_one() -> None:
    def taken(**cells: str) -> str:
        (found,) = outcome(DATA_PARALLEL | {"recompute": "full", "micro_batch": ""} | cells)
        return next(a.value for a in found.assumed if a.field == "micro_batch")

    assert taken() == "16"  # all of a replica
    assert 1 <= int(taken(seq="65536", step_s="400")) < 16
    assert taken(tp="4", pp="4", dp="1") == "1"


def test_what_a_source_counts_as_flops_decides_its_step() -> None:
    """Of one rate: recomputation counted is a longer step, attention counted half a shorter one, which
    matters the more the longer the sequence."""

    def measured(convention: str, seq: str = "4096", **cells: str) -> float:
        stated = {
            "step_s": "",
            "tokens_per_s_per_device": "",
            "mfu": "",
            "tflops_per_device": "150",
        }
        row = DATA_PARALLEL | stated | {"seq": seq, "flops_convention": convention} | cells
        (found,) = outcome(row)
        assert found.status == "ok", found.reason
        return float(found.measured or 0.0)

    full = measured("model")
    assert measured("") == measured("model (6N + 12*l*h*s; causality not counted)") == full
    assert measured("hardware", recompute="full") > 1.3 * measured("model", recompute="full")
    short, long = (
        measured("model, causal (a counter's)", seq) / measured("model", seq)
        for seq in ("4096", "16384")
    )
    assert 0.5 < long < short < 1.0
