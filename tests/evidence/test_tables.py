"""Tables of measurements: what is read, and what is refused with its line and column."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_of_tables import (
    COLLECTIVE,
    DATA_PARALLEL,
    EXAMPLES,
    SERVING,
    TRAINING,
    outcome,
    text,
)

from meshwise.answers.text.tables import plain_text
from meshwise.answers.validate import validate_page
from meshwise.cli import main
from meshwise.clusters.load import load_cluster
from meshwise.errors import InputError, MeshwiseError
from meshwise.evidence.predict import PREDICT
from meshwise.evidence.score.summary import error_summary, quantile
from meshwise.evidence.tables import TABLE_KINDS, parse_table, unread_columns
from meshwise.evidence.validate import row_results


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_kind_is_told_by_the_header(kind: str) -> None:
    table = parse_table(text(EXAMPLES[kind]), "mine.csv")
    assert table.kind == kind
    assert set(PREDICT) == set(TABLE_KINDS)
    (result,) = outcome(EXAMPLES[kind])
    assert result.status == "ok"
    assert result.error == result.predicted / result.measured - 1


@pytest.mark.parametrize(
    ("kind", "change", "status", "words"),
    [
        ("training", {"step_s": "-1"}, "suspect", ("step_s", "-1 is not above 0")),
        ("training", {"step_s": "18 s"}, "invalid", ("line 2", "step_s")),
        ("training", {"devices": "63"}, "invalid", ("line 2", "devices", "64")),
        ("training", {"devices": "6.5"}, "invalid", ("line 2", "devices")),
        ("training", {"tp": "7", "pp": "1", "devices": "7"}, "invalid", ("line 2", "tp", "96")),
        ("training", {"model": "gpt9"}, "invalid", ("line 2", "model", "gpt9")),
        ("training", {"device": "a1000"}, "invalid", ("line 2", "device", "a1000")),
        ("training", {"dtype": "fp7"}, "invalid", ("dtype",)),
        ("training", {"recompute": "some"}, "invalid", ("line 2", "recompute")),
        ("training", {"sequence_parallel": "maybe"}, "invalid", ("sequence_parallel",)),
        ("training", {"attention": "flash9"}, "invalid", ("line 2", "attention", "flash9")),
        ("training", {"dtype": "banana"}, "invalid", ("line 2", "banana")),
        ("training", {"step_s": ""}, "unsupported", ("nothing",)),
        ("layers", {"forward_ms": "-3"}, "suspect", ("forward_ms", "-3 is not above 0")),
        ("layers", {"forward_ms": "-3", "stack": ""}, "suspect", ("forward_ms",)),
        ("layers", {"tp": "16"}, "invalid", ("line 2", "devices", "16")),
        ("layers", {"recompute": "some"}, "invalid", ("line 2", "recompute")),
        ("layers", {"model": "(layer only) mine"}, "unsupported", ("outside a model",)),
        ("layers", {"forward_ms": ""}, "unsupported", ("nothing",)),
        ("serving", {"tpot_ms": "nan"}, "invalid", ("tpot_ms",)),
        ("serving", {"devices": "3"}, "invalid", ("devices",)),
        ("serving", {"concurrency": ""}, "unsupported", ("concurrency",)),
        ("serving", {"engine": "nanotron"}, "unsupported", ("nanotron", "training")),
        ("collectives", {"op": "gossip"}, "unsupported", ("gossip",)),
        ("collectives", {"ranks": "0"}, "invalid", ("ranks",)),
        ("collectives", {"bytes": "-5"}, "invalid", ("bytes",)),
        (
            "collectives",
            {"nodes": "2", "ranks": "16", "inter_node": "pigeons"},
            "invalid",
            ("inter_node", "pigeons"),
        ),
    ],
)
def test_rows(kind: str, change: dict[str, str], status: str, words: tuple[str, ...]) -> None:
    good = EXAMPLES[kind] | {"sequence_parallel": ""} if kind == "training" else EXAMPLES[kind]
    bad, fine = outcome(good | change, good | {"id": "mine/9"})
    assert bad.status == status
    for word in words:
        assert word in bad.reason
    assert fine.status == "ok"  # the other rows still run


NOTES = (
    "no communication overlap",
    "--tp-comm-overlap was NOT set",
    "gradient all-reduce overlapped with backward",
    "ZeRO-1 without overlap",
    "eager mode; async TP",
)


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_a_note_changes_nothing(kind: str) -> None:
    plain, *noted = outcome(*(EXAMPLES[kind] | {"note": note} for note in ("", *NOTES)))
    assert plain.status == "ok"
    assert all(r._replace(line=plain.line, id=plain.id) == plain for r in noted)


def predicted(**cells: str) -> float:
    (result,) = outcome(DATA_PARALLEL | cells)
    assert result.status == "ok", result.reason
    return float(result.predicted or 0.0)


def test_what_steers_the_price_is_a_column() -> None:
    usual = predicted()
    assert predicted(overlap="decomposed") < usual < predicted(overlap="none", grad_overlap="false")
    assert predicted(grad_overlap="false") > usual
    assert predicted(grad_dtype="bf16") < predicted(grad_dtype="fp32")
    assert predicted(attention="flash1") > usual
    piped = {"tp": "4", "pp": "4", "dp": "1"}
    assert predicted(**piped, schedule="zb-2p") < predicted(**piped)
    assert predicted(**piped, schedule="zb-2p") == predicted(**piped, stack="megatron-core-zb-2p")


def test_unknown_software_is_priced_as_the_generic_stack_and_said_so() -> None:
    (named,) = outcome(DATA_PARALLEL | {"stack": "generic"})
    for stack in ("abacus", ""):
        (unknown,) = outcome(DATA_PARALLEL | {"stack": stack})
        assert unknown.predicted == named.predicted
        assert [a._asdict() for a in set(unknown.assumed) - set(named.assumed)] == [
            {"field": "stack", "value": "generic"}
        ]


@pytest.mark.parametrize("shard", ["none", "zero3"])
def test_what_stands_in_for_unknown_software_may_be_off_as_any(shard: str) -> None:
    """It is new to the evidence, and where the step is made of the same parts its interval is wider; a
    stack whose network takes more of the step is less sure for that too."""
    own = {"shard": shard, "memory_gib": "40", "memory_of": "allocated"}
    name = {"none": "megatron-core", "zero3": "torchtitan-2025"}[shard]
    known = outcome(DATA_PARALLEL | own | {"stack": name})
    unknown = outcome(DATA_PARALLEL | own | {"stack": "abacus"})
    assert [r.quantity for r in unknown] == ["step_s", "memory_bytes"]
    mine, other = known[0], unknown[0]
    assert other.evidence and "software" in other.evidence.new
    if shard == "none":
        assert other.high / other.low > mine.high / mine.low  # type: ignore[operator]


def test_the_page_counts_rows_of_unknown_software() -> None:
    def page(*names: str) -> str:
        table = parse_table(text(*({**DATA_PARALLEL, "stack": n} for n in names)), "mine")
        results = row_results(table, Path())
        return str(
            plain_text(validate_page(table.kind, "mine", results, error_summary(results), 0), None)
        )

    assert "software that the catalog" not in page("megatron-core")
    said = " ".join(page("megatron-core", "abacus", "other").split())
    assert "2 rows name software that the catalog does not know: priced 2 as generic" in said


def test_what_hardware_a_row_leaves_open_is_listed() -> None:
    stated, open_ = outcome(
        DATA_PARALLEL, DATA_PARALLEL | {"intra_node": "", "inter_node_gbytes_per_s": ""}
    )
    assert {a.field for a in open_.assumed} - {a.field for a in stated.assumed} == {
        "intra_node",
        "inter_node_gbytes_per_s",
    }


def _on(device: str, **cells: str):  # type: ignore[no-untyped-def]
    left_out = dict.fromkeys(("devices_per_node", "intra_node", "inter_node_gbytes_per_s"), "")
    return outcome({**TRAINING, **left_out, "attention": "", "device": device, **cells})[0]


@pytest.mark.parametrize(
    ("node", "network"),
    [
        ("p5.48xlarge", "12.5"),  # 32 NICs of 100 Gb/s, no InfiniBand
        ("Standard_ND96isr_H100_v5", "50"),
        ("a3-highgpu-8g", "25"),
        ("dgx-h100", "50"),
        ("BM.GPU.H100.8", "50"),
    ],
)
def test_a_node_in_the_device_column_is_read_as_it_is_elsewhere(node: str, network: str) -> None:
    """Its device is priced in its own node and network, or as the row says."""
    row, device = _on(node), _on("h100-80gb-sxm")
    assert row.status == device.status == "ok"
    assert not {a.field for a in row.assumed} & {"intra_node", "inter_node_gbytes_per_s"}
    stated = {"intra_node": "nvlink4", "inter_node_gbytes_per_s": network, "devices_per_node": "8"}
    assert _on(node, **stated).predicted == _on("h100-80gb-sxm", **stated).predicted
    assert load_cluster(node).device.name == "h100-80gb-sxm"


def test_a_node_in_the_device_column_contradicts_another_size_or_is_named() -> None:
    assert "devices_per_node: p5.48xlarge has 8" in _on("p5.48xlarge", devices_per_node="4").reason
    for shape, device in (("p5.4xlarge", "h100-80gb-sxm"), ("NC24ads_A100_v4", "a100-80gb-sxm")):
        row = _on(shape)
        assert row.status == "invalid"
        assert "device: no device" in row.reason and row.reason.endswith(f"nearest: {device}")


def test_columns_that_nothing_reads_are_named() -> None:
    table = parse_table(text(SERVING | {"weight_dtype": "int4", "empty": "", "note": "x"}), "t")
    assert unread_columns(table) == ["weight_dtype"]


def test_an_eager_collective_is_host_time() -> None:
    graph, eager = outcome(COLLECTIVE | {"launch": "graph"}, COLLECTIVE | {"launch": "eager"})
    assert (graph.status, eager.status) == ("ok", "unsupported")
    assert graph.predicted == outcome(COLLECTIVE)[0].predicted


@pytest.mark.parametrize("dtype", ["fp4", "nvfp4", "int4", "mxfp4"])
def test_four_bit_weights_of_a_row_are_read(dtype: str) -> None:
    """A decode step of one sequence reads little else: it takes far less time than at 16 bit."""
    alone = {"devices": "1", "tp": "1", "concurrency": "1", "tpot_ms": "5"}
    wide, narrow = outcome(*(SERVING | alone | {"dtype": d} for d in ("bf16", dtype)))
    assert wide.predicted and narrow.predicted
    assert narrow.predicted < 0.6 * wide.predicted


def test_a_stated_width_replaces_the_checkpoints() -> None:
    r1 = SERVING | {"model": "deepseek-r1", "devices": "16", "tp": "16", "device": "h200-141gb-sxm"}
    own, wide = outcome(r1 | {"dtype": ""}, r1 | {"dtype": "bf16"})
    assert wide.predicted and own.predicted
    assert wide.predicted > own.predicted
    assert own.assumed[0].field == "dtype"


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        parse_table(text(TRAINING).splitlines()[0], "mine.csv")
    assert "no rows" in str(caught.value)


def test_a_short_row_is_named_and_the_others_run() -> None:
    lines = text(TRAINING, TRAINING).splitlines()
    lines[1] = ",".join(lines[1].split(",")[:5])
    results = row_results(parse_table("\n".join(lines), "mine.csv"), Path())
    assert [r.status for r in results] == ["invalid", "ok"]
    assert "line 2" in results[0].reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "column"),
        ("a,b,c\n1,2,3\n", "column"),
        ("size,count,type,redop,root,time,algbw,busbw\n8,2,float,sum,-1,1,2,3\n", "column"),
        (text({k: v for k, v in TRAINING.items() if k != "seq"}), "seq"),
        (text({k: v for k, v in TRAINING.items() if k != "step_s"}), "step_s"),
        (text(COLLECTIVE).replace("time_us", "time_ms"), "time_us"),
        ('id,model\n"open', "CSV"),
        ("id,model,model,device\n", "twice"),
    ],
)
def test_other_tables_are_refused(content: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_table(content, "other.csv")
    assert words in str(refused.value)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text(TRAINING, TRAINING | {"step_s": "x"}), encoding="utf-8")
    assert main(["validate", str(path), "--json"]) == 0  # a row was read
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == 1
    assert [r["status"] for r in answer["rows"]] == ["ok", "invalid"]
    row = answer["rows"][0]
    assert {"id", "quantity", "measured", "predicted", "error", "status", "reason"} <= set(row)
    step = answer["summary"]["step_s"]
    assert {
        "n",
        "unsupported",
        "median_abs_error",
        "mean_abs_error",
        "p90_abs_error",
        "bias",
        "baselines",
    } <= set(step)
    path.write_text(text(TRAINING), encoding="utf-8")
    assert main(["validate", str(path)]) == 0
    assert "step_s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["validate"],
        ["validate", "x.csv", "--published", "training"],
        ["validate", "/no/such.csv"],
        ["validate", "--published", "poetry"],
    ],
)
def test_bad_command_lines(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1


CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1e9", "nan", "inf", "true", "8", "1.5", "nvlink4", "none", "x" * 300]
    ),
    st.text(max_size=12).filter(lambda s: "\n" not in s and "\r" not in s),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(EXAMPLES)), st.data())
def test_any_cell_gives_a_result_and_never_a_traceback(kind: str, data: st.DataObject) -> None:
    row = dict(EXAMPLES[kind])
    for column in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3, unique=True)):
        row[column] = data.draw(CELLS)
    try:
        results = outcome(row)
    except MeshwiseError:
        return
    for r in results:
        assert r.status in ("ok", "unsupported", "invalid", "suspect")
        assert r.status == "ok" or r.reason
    error_summary(results)


def test_quantile_is_numpys() -> None:
    import numpy as np

    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    for q in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)))


def _training_step(**cells: str) -> float:
    row = {k: v for k, v in TRAINING.items() if k != "colour"} | cells
    out = io.StringIO()
    writer = csv.DictWriter(out, list(row))
    writer.writeheader()
    writer.writerow(row)
    table = parse_table(out.getvalue(), "mine.csv")
    assert unread_columns(table) == []
    (found,) = [p for p in PREDICT[table.kind](table.rows[0], Path(".")) if p.quantity == "step_s"]
    return found.predicted


def test_switches_of_the_software_are_columns():
    experts = {
        "model": "qwen3-30b-a3b",
        "device": "h100-80gb-sxm",
        "devices": "16",
        "intra_node": "nvlink4",
        "inter_node_gbytes_per_s": "50",
        "attention": "flash",
        "stack": "megatron-core-2025",
        "dtype": "bf16",
        "recompute": "none",
        "tp": "1",
        "pp": "1",
        "dp": "16",
        "ep": "16",
        "etp": "1",
        "seq": "4096",
        "shard": "zero1",
        "global_batch": "256",
    }
    plain = _training_step(**experts, dispatcher="alltoall")
    assert _training_step(**experts, dispatcher="deepep") < 0.8 * plain
    assert _training_step(**experts, overlap_experts="true") < 0.9 * plain
    assert _training_step(**experts, loss_chunks="8", moments_dtype="bf16") != plain
    for column, bad in (("dispatcher", "fast"), ("overlap_experts", "maybe"), ("loss_chunks", "0")):
        with pytest.raises(InputError, match=column):
            _training_step(**experts, **{column: bad})


def test_the_variant_of_a_software_says_its_kernels():
    from meshwise.stacks.load import stack_in_table

    name = "aleph-alpha-scaling-2023-"
    found = {v: stack_in_table(name + v) for v in ("flash2+rms", "flash2", "flash1", "torch")}
    assert {s.name for s in found.values() if s} == {"aleph-alpha-scaling"}
    assert found["flash2+rms"].fused_norm
    assert not found["flash2"].fused_norm
    assert found["flash1"].flash_version == 1
    titan = {y: stack_in_table(f"torchtitan-{y}-compile").loss_chunks for y in (2025, 2026)}
    assert titan == {2025: 1, 2026: 8}


def test_a_format_in_a_models_name_stays() -> None:
    """A row's 16 bits beside it are the activations', as of a served checkpoint; without it, the run's."""
    rows = (("qwen3-32b-fp8", ""), ("qwen3-32b-fp8", "bf16"), ("qwen3-32b-fp8", "fp8"),
            ("qwen3-32b", "bf16"))  # fmt: skip
    large = SERVING | {"devices": "2", "tp": "2", "tpot_ms": "40"}
    own, beside, same, wide = outcome(*(large | {"model": m, "dtype": d} for m, d in rows))
    assert own.predicted == beside.predicted == same.predicted
    assert wide.predicted and own.predicted and wide.predicted > 1.2 * own.predicted
