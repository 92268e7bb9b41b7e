"""Versions as data: which release a name is, and which tables of a stack's file hold for it."""

import csv
from pathlib import Path

import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.errors import InputError, UnknownName
from meshwise.stacks import versions
from meshwise.stacks.load import described, is_known, load_stack, stack_in_table
from meshwise.stacks.stack import switch_values
from meshwise.stacks.switches import HOME

PUBLISHED = Path(mw.__file__).parent / "evidence" / "published"
# what each software of the shipped tables was priced as when this was code: a stack of the catalog
# and the switches that it has otherwise
ROWS = {
    "automodel-2025/26 (FSDP2, TE, DeepEP)": ("automodel", {}),
    "deepspeed-2021": ("deepspeed-2021", {}),
    "fastertransformer": ("fastertransformer", {}),
    "flagscale-2023 (megatron)": (
        "megatron-core",
        {
            "flash_version": 2,
            "fused_elementwise": False,
            "loss_bytes": 52.0,
            "loss_peak_bytes": 10.0,
            "expands_kv_heads": True,
        },
    ),
    "internevo-2023": ("internevo", {}),
    "maxtext-25.01": ("maxtext", {}),
    "megatron-2020": ("megatron-2021", {}),
    "megatron-2021": ("megatron-2021", {}),
    "megatron-2022": ("megatron-2021", {}),
    "megatron-2024-1f1b": ("megatron-core", {"loss_bytes": 52.0}),
    "megatron-2024-1f1b-i": ("megatron-core", {"loss_bytes": 52.0}),
    "megatron-2024-zb-1p": ("megatron-core", {"loss_bytes": 52.0}),
    "megatron-2024-zb-2p": ("megatron-core", {"loss_bytes": 52.0}),
    "megatron-core-0.6.0": ("megatron-core", {"loss_bytes": 52.0, "loss_peak_bytes": 10.0}),
    "megatron-core-0.8": ("megatron-core", {"loss_bytes": 52.0}),
    "megatron-core-2025": ("megatron-core", {"dispatcher": "deepep"}),
    "megatron-core-2025-12": ("megatron-core", {"dispatcher": "deepep"}),
    "megatron-deepspeed-2023 (deepspeed 0.11.1)": ("deepspeed", {}),
    "nanotron-2025": ("nanotron", {"keeps_gathered_inputs": True}),
    "nemo-24.03": ("nemo", {"flash_version": 2}),
    "nemo-24.07": ("nemo", {}),
    "nemo-24.12": ("nemo", {}),
    "nemo-25.02.01": ("nemo", {}),
    "nemo-25.04": ("nemo", {}),
    "nemo-megatron-2023-01": ("megatron-2021", {}),
    "nemo/megatron-core-2025-06": ("nemo", {}),
    "paddle-2.5.1 (PaddleNLP 2023)": ("paddle", {}),
    "pai-megatron-patch-240405": ("megatron-core", {"loss_bytes": 52.0}),
    "sglang": ("sglang", {}),
    "sglang-0.5.1.post1": ("sglang", {}),
    "sglang-0.5.8.post1": ("sglang", {}),
    "torchtitan-2024": ("torchtitan-eager", {"loss_chunks": 1, "cp_load_balance": False}),
    "torchtitan-2024-04": ("torchtitan-eager", {"loss_chunks": 1, "cp_load_balance": False}),
    "torchtitan-2024-08-compile": (
        "torchtitan-fsdp",
        {
            "cp_load_balance": False,
            "loss_chunks": 1,
            "loss_peak_bytes": 12.0,
            "loss_peak_bytes_tp": 16.0,
        },
    ),
    "torchtitan-2024-compile": (
        "torchtitan-fsdp",
        {
            "cp_load_balance": False,
            "loss_chunks": 1,
            "loss_peak_bytes": 12.0,
            "loss_peak_bytes_tp": 16.0,
        },
    ),
    "torchtitan-2025-compile": ("torchtitan-fsdp", {"loss_chunks": 1}),
    "trtllm": ("trtllm", {}),
    "trtllm-1.0.0rc3": ("trtllm", {}),
    "trtllm-1.2.0rc6.post1": ("trtllm", {}),
    "aleph-alpha-scaling-2023-flash1": ("aleph-alpha-scaling", {"flash_version": 1}),
    "aleph-alpha-scaling-2023-flash2": ("aleph-alpha-scaling", {}),
    "aleph-alpha-scaling-2023-flash2+rms": ("aleph-alpha-scaling", {"fused_norm": True}),
    "aleph-alpha-scaling-2023-megatron-fused": ("aleph-alpha-scaling", {}),
    "aleph-alpha-scaling-2023-torch": ("aleph-alpha-scaling", {"fused_softmax": False}),
    "deepspeed-0.14.2 (HF, torch 2.2)": ("deepspeed", {}),
    "deepspeed-0.19-2026": ("deepspeed", {}),
    "deepspeed-2023 (HF, Qwen scripts)": ("deepspeed", {}),
    "deepspeed-2024 (xtuner)": ("deepspeed", {}),
    "fsdp-2024-compile (fms-fsdp, PyTorch FSDP1)": ("torchtitan-fsdp", {"loss_chunks": 1}),
    "fsdp2-2025/26 (NeMo AutoModel; TE, DeepEP)": ("torchtitan-eager", {"loss_chunks": 1}),
    "llm-foundry-2023": ("llm-foundry", {}),
    "llmq-2025": ("llmq", {}),
    "maxtext-2023-12": ("maxtext", {}),
    "maxtext-2025": ("maxtext", {}),
    "megatron-bridge-25.09": ("nemo", {}),
    "megatron-bridge-25.11": ("nemo", {"dispatcher": "deepep"}),
    "megatron-bridge-26.02": ("nemo", {"dispatcher": "deepep"}),
    "megatron-bridge-26.04": ("nemo", {"dispatcher": "deepep"}),
    "megatron-core-2025/26": ("megatron-core", {"dispatcher": "deepep"}),
    "megatron-core-2026-04": ("megatron-core", {"dispatcher": "deepep"}),
    "megatron-deepspeed-2022": ("deepspeed", {}),
    "nemo-25.02": ("nemo", {}),
    "nemo-25.09 (MLPerf v5.1)": ("nemo", {}),
    "torchtitan-2025-03-compile": (
        "torchtitan-fsdp",
        {"loss_chunks": 1, "loss_peak_bytes": 12.0, "loss_peak_bytes_tp": 16.0},
    ),
    "torchtitan-2025-08-compile": ("torchtitan-fsdp", {"loss_chunks": 1}),
    "torchtune-2025 (eager)": ("torchtitan-eager", {"loss_chunks": 1}),
    "torchtune-2025-compile": ("torchtitan-fsdp", {"loss_chunks": 1}),
    "vllm": ("vllm", {}),
    "vllm-0.12.0": ("vllm", {"deep_gemm_experts": ("hopper", "blackwell"), "deep_gemm_tp": 8}),
}


def softwares():
    for file in PUBLISHED.glob("*.csv"):
        for row in csv.DictReader(file.read_text("utf-8").splitlines()):
            name = row.get("stack") or row.get("engine")
            if name:
                yield "-".join(filter(None, (name, row.get("engine_version"))))


def test_every_software_of_the_shipped_tables_is_here():
    assert set(softwares()) <= set(ROWS)


@pytest.mark.parametrize("software", ROWS)
def test_a_row_is_priced_as_it_always_was(software):
    found, wanted = stack_in_table(software), ROWS[software]
    if wanted is None:
        assert found is None
        return
    name, changes = wanted
    plain = load_stack(name)
    assert (found.name, found.title, found.software) == (name, plain.title, name)
    assert switch_values(found) == switch_values(plain) | changes


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("vllm-0.13", "vllm-0.13"),
        ("vllm@0.13", "vllm-0.13"),
        ("VLLM-v0.13.1rc2", "vllm-0.13.1rc2"),
        ("megatron-0.7", "megatron-core-0.7"),  # another name of it
        ("torchtitan-2024-08", "torchtitan-fsdp-2024-08"),
        ("megatron-2021", "megatron-2021"),  # a stack of its own
        ("megatron-2022", "megatron-2021"),  # as tables name it
        ("tgi-2023", "tgi-2023"),
    ],
)
def test_a_name_with_a_version(asked, name):
    found = mw.stack(asked)
    assert found.name == name
    assert mw.stack(name) == found
    assert found.software in catalog.names("stacks")
    assert is_known(asked)


def test_what_a_version_does_otherwise():
    assert mw.stack("vllm").iteration_s == mw.stack("vllm-0.13").iteration_s > 0
    assert mw.stack("vllm-0.14").iteration_s == mw.stack("vllm-0.99").iteration_s == 0
    assert "27614" in mw.stack("vllm-0.14").sources["iteration_s"]
    kernels = {
        v: mw.stack(f"vllm-{v}").few_rows for v in ("0.11.0", "0.12", "0.14", "0.16", "0.17")
    }
    deep_gemm = ("hopper", "blackwell")
    assert [k.deep_gemm_experts for k in kernels.values()] == [(), deep_gemm, deep_gemm, (), ()]
    assert [k.cutlass_experts for k in kernels.values()] == [(), (), (), ("hopper",), ()]
    before = {v: mw.stack(f"megatron-core-{v}") for v in ("0.7.2", "0.8", "0.9.1", "0.10", "0.12")}
    assert [s.loss_peak_bytes for s in before.values()] == [10.0, 6.0, 6.0, 6.0, 6.0]
    assert [s.loss_bytes for s in before.values()] == [52.0, 52.0, 52.0, 30.0, 30.0]


def test_a_version_is_priced_by_the_runs_and_kernels_of_its_software():
    work, layout = mw.Decode(batch=8, context=512), {"tp": 2}
    asked = [mw.estimate("llama-3.1-8b", "hgx-h100", work, stack=s, **layout).to_dict()
             for s in ("vllm", "vllm-0.9")]  # fmt: skip
    for record in asked:
        record["stack"] = {k: v for k, v in record["stack"].items() if k in HOME}
    assert asked[0] == asked[1]


@pytest.mark.parametrize("name", ["vllm@latest", "vllm-0.x", "vllm@", "vllm-0..1", "vllm@-1"])
def test_a_malformed_version_is_refused(name):
    with pytest.raises(InputError, match="is not a version of vllm; legal: numbers") as refused:
        mw.stack(name)
    assert refused.value.nearest == "vllm"
    assert not is_known(name)


@pytest.mark.parametrize("name", ["vlm-0.13", "vllm-nightly", "tgi-2024", "0.13", "vllm-0.13-foo"])
def test_a_name_of_no_stack_is_refused(name):
    with pytest.raises(UnknownName, match="no stack is called"):
        mw.stack(name)


@pytest.mark.parametrize(
    ("software", "wanted"),
    [
        ("pai-megatron-patch-240405", ("megatron-core", "240405")),
        ("fsdp2-2025/26 (NeMo AutoModel; TE, DeepEP)", ("torchtitan-eager", "2025")),
        ("torchtitan-2024-08-compile", ("torchtitan-fsdp", "2024-08")),
        ("nemo/megatron-core-2025-06", ("nemo", "")),
        ("nemo-megatron-2023-01", ("megatron-2021", "01")),
        ("vllm-nightly-5b8c30d62b754b57", ("vllm", "")),
        ("trtllm-1.1.0rc2.post2", ("trtllm", "1.1.0")),
        ("deepspeed-0.19-2026", ("deepspeed", "0.19")),
        ("llmq-2025", ("llmq", "2025")),
        ("llama.cpp-2023-10", ("llama.cpp", "2023-10")),
        ("someengine-2023-10", None),
    ],
)
def test_names_in_tables(software, wanted):
    found = versions.in_table(software)
    assert (found and (found.stack, found.version)) == wanted


def test_versions_order_by_their_numbers():
    order = ["0.9", "0.10", "0.14rc1", "0.14.1", "24.03", "2023", "2023-12", "240405", "2025"]
    assert [versions.numbers_of(v, "version") for v in order] == sorted(
        versions.numbers_of(v, "version") for v in order
    )


def test_every_version_of_the_catalog_differs_from_its_stack():
    for name in catalog.names("stacks"):
        found = described(name)
        plain = switch_values(load_stack(name))
        for table in (*found.table.get("version", ()), *found.table.get("variant", ())):
            assert table.get("source"), f"{name}: a version without a source"
            changed = {k: v for k, v in table.items() if k in HOME}
            assert changed and all(plain[k] != v for k, v in changed.items()), (name, table)


def test_no_two_stacks_have_one_name_in_tables():
    named = [
        n for s in catalog.names("stacks") for n in described(s).table.get("named_in_tables", ())
    ]
    assert len(named) == len(set(named))
    assert not set(named) & set(catalog.names("stacks"))


@pytest.mark.parametrize(
    "name", ["vllm@2024-08", "vllm-2024", "nemo@2025-01", "torchtitan@0.14", "nanotron-0.4"]
)
def test_a_month_is_no_version_of_what_counts_in_numbers_nor_the_other_way_round(name):
    with pytest.raises(InputError, match=r"versions of .* are") as refused:
        mw.stack(name)
    assert not is_known(name)
    mw.stack(refused.value.nearest)


@pytest.mark.parametrize("name", ["megatron-core@0.9", "megatron-core@2024-08", "sglang@0.5"])
def test_software_that_counts_both_ways_or_of_which_nothing_is_known_takes_either(name):
    mw.stack(name)


def newest_of(name: str) -> str | None:
    table = catalog.load("stacks", name, "stack")[1]
    return table.get("newest")


SOFTWARES = [name for name in catalog.names("stacks") if not load_stack(name).ideal]


@pytest.mark.parametrize("name", SOFTWARES)
def test_a_version_later_than_the_newest_known_is_remarked_of_every_stack(name: str) -> None:
    """One rule: what is known to be priced by its own rules has no remark, what is not has one."""
    counted = [v for v in ("99.9", "2099-12") if takes(name, v)]
    assert counted
    for version in counted:
        stack = load_stack(f"{name}@{version}")
        said = versions.version_remark(stack.name, stack.title)
        assert said is not None
        assert "later version" in said or "not told apart" in said
        assert "\n" not in said
    assert versions.version_remark(load_stack(name).name, "") is None
    newest = newest_of(name)
    if newest is not None:
        for known in (newest, f"{newest}.7", "0.1"):
            stack = load_stack(f"{name}@{known}")
            assert versions.version_remark(stack.name, stack.title) is None
    for bad in ("abc", "", "1..2"):
        with pytest.raises(InputError):
            load_stack(f"{name}@{bad}")


def takes(name: str, version: str) -> bool:
    try:
        load_stack(f"{name}@{version}")
    except InputError as error:
        assert "versions of" in str(error)
        return False
    return True


@pytest.mark.parametrize("stack", ["sglang", "tensorrt-llm", "vllm"])
def test_every_command_says_that_a_version_is_later_than_known(stack: str) -> None:
    model, where = mw.model("llama-3.1-8b"), mw.cluster("hgx-h100", nodes=1)
    load = mw.Serving(isl=256, osl=16, concurrency=2)
    said = [
        mw.serve(model, where, load, stack=f"{stack}@99").remarks,
        mw.plan(model, where, load, stack=f"{stack}@99", gpus=1).remarks,
        mw.estimate(model, where, mw.Decode(batch=1, context=64), stack=f"{stack}@99").remarks,
    ]
    for remarks in said:
        assert sum("later version than" in remark for remark in remarks) == 1
