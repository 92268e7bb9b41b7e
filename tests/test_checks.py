"""Every public type refuses what cannot be, however it is made, and names the field."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meshwise as mw
from meshwise.checks import KeywordStruct
from meshwise.cost import schedule
from meshwise.layouts.layout import Layout
from meshwise.models.quantization.methods import READERS
from meshwise.models.shapes import LayerFormats, Quantization, Stored
from meshwise.stacks import stack
from meshwise.stacks.switches import switch_named, words_of

CLUSTER = mw.cluster("dgx-a100")
MOE = mw.model("deepseek-v3")
BLOCK = next(b for b in MOE.blocks if b.moe is not None)
DENSE = next(b for b in MOE.blocks if b.mlp is not None)
OBJECTS: dict[str, Any] = {
    "device": CLUSTER.device,
    "level": CLUSTER.levels[1],
    "cluster": CLUSTER,
    "stack": mw.stack("vllm"),
    "model": MOE,
    "block": BLOCK,
    "attention": BLOCK.attention,
    "moe": BLOCK.moe,
    "mlp": DENSE.mlp,
    "quantization": Quantization(method="awq", weight_dtype="int4", group=128),
    "stored": Stored(dtype="int4", group=128),
    "layer_formats": LayerFormats(),
    "training": mw.Training(batch=8, seq=512, micro_batch=2),
    "prefill": mw.Prefill(batch=8, seq=512),
    "decode": mw.Decode(batch=8, context=512),
    "serving": mw.Serving(isl=128, osl=16, concurrency=4),
    "formats": mw.Formats(dtype="bf16"),
    "layout": Layout(tp=2),
}
FIELDS = [
    (name, f)
    for name, o in OBJECTS.items()
    for f in (stack.FIELDS if isinstance(o, mw.Stack) else o.__struct_fields__)
]
NEVER = [-1, -0.5, math.nan, math.inf, -math.inf, [None], b"x", object()]


def changed(name: str, field: str, value: object) -> Any:
    """An object with another value in a field."""
    own = OBJECTS[name]
    if isinstance(own, mw.Stack):
        return stack.replaced(own, {field: value})
    return msgspec.structs.replace(own, **{field: value})


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_no_field_takes_what_no_field_can_be(name: str, field: str) -> None:
    for value in NEVER:
        with pytest.raises(mw.MeshwiseError):
            changed(name, field, value)


@pytest.mark.parametrize(
    ("name", "field"),
    [(n, f) for n, f in FIELDS if isinstance(getattr(OBJECTS[n], f), (int, float))],
)
def test_a_number_is_no_flag_and_a_flag_is_no_number(name: str, field: str) -> None:
    value: Any = 1 if isinstance(getattr(OBJECTS[name], field), bool) else True
    with pytest.raises(mw.MeshwiseError) as caught:
        changed(name, field, value)
    assert field in caught.value.field


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-10, 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=3)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), _VALUES)
def test_whatever_it_is_given_a_type_takes_it_or_names_the_field(
    which: tuple[str, str], value: object
) -> None:
    name, field = which
    try:
        made = changed(name, field, value)
    except mw.MeshwiseError as error:
        assert error.field
        assert "\n" not in str(error)
        return
    kept = getattr(made, field)
    assert isinstance(kept, bool) or not isinstance(kept, (int, float)) or 0 <= kept < math.inf


@pytest.mark.parametrize("switch", [s for s in stack.FIELDS if s not in ("name", "sources")])
def test_every_switch_of_a_stack_has_its_legal_values(switch: str) -> None:
    wrong: list[object] = [["no such word"]]
    wrong += [] if switch == "title" else ["no such word"]
    if switch not in ("title", "ideal"):
        assert switch_named(switch).legal
        # none of them is legal where that is what a stack says by itself
        wrong += [] if switch_named(switch).default == () else [[]]
    for value in (*wrong, -1, 1e12, math.nan):
        with pytest.raises(mw.MeshwiseError, match=switch) as caught:
            mw.stack("vllm", **{switch: value})
        assert caught.value.legal is not None


def test_schedules_are_those_that_are_priced() -> None:
    assert words_of("schedule") == tuple(schedule.SCHEDULES)


def test_a_generation_that_is_unknown_is_not_another_chip(tmp_path: Path) -> None:
    with pytest.raises(mw.MeshwiseError) as caught:
        msgspec.structs.replace(CLUSTER.device, generation="ampre")
    assert caught.value.nearest == "ampere"
    file = tmp_path / "mine.toml"
    file.write_text(
        '[device]\nlike = "a100-80gb-sxm"\ngeneration = "ampre"\n'
        '[[level]]\nranks = 8\nfabric = "nvlink3-nvswitch"\n'
    )
    with pytest.raises(mw.MeshwiseError) as caught:
        mw.cluster(file)
    assert (caught.value.field, caught.value.nearest) == ("device.generation", "ampere")


def test_parts_of_a_model_fit_together() -> None:
    for change in ({"top_k": 257}, {"experts": 4}):
        with pytest.raises(mw.MeshwiseError, match="top_k"):
            msgspec.structs.replace(BLOCK.moe, **change)
    with pytest.raises(mw.MeshwiseError, match="kv_heads"):
        msgspec.structs.replace(BLOCK.attention, kv_heads=129)
    with pytest.raises(mw.MeshwiseError, match="pattern"):
        msgspec.structs.replace(MOE, pattern=(0, 7))


@pytest.mark.parametrize("price", [-5.42, math.nan, math.inf, "x"])
def test_a_price_is_not_negative(price: Any) -> None:
    with pytest.raises(mw.MeshwiseError, match="price_per_device_hour"):
        mw.plan("gpt2", "dgx-a100", OBJECTS["training"], gpus=2, tp=1, price_per_device_hour=price)


@pytest.mark.skipif(KeywordStruct is msgspec.Struct, reason="an msgspec without metaclasses")
@pytest.mark.parametrize(
    ("kind", "given", "field"),
    [
        (mw.Decode, {"batch": 8}, "context"),
        (mw.Prefill, {"batch": 8}, "seq"),
        (mw.Training, {"seq": 512}, "batch"),
        (mw.Serving, {"isl": 512}, "osl"),
        (mw.Decode, {"batch": 8, "contxt": 512}, "contxt"),
        (mw.Formats, {"dtpe": "fp8"}, "dtpe"),
    ],
)
def test_a_workload_names_the_field_that_is_missing_or_unknown(kind, given, field):
    with pytest.raises(mw.MeshwiseError) as found:
        kind(**given)
    assert found.value.field == field
    assert f"{kind.__name__}: " in str(found.value) and "\n" not in str(found.value)
    with pytest.raises(mw.MeshwiseError, match="by name"):
        kind(8)


def test_methods_that_a_stack_does_not_load_are_methods_that_are_read() -> None:
    # ModelOpt writes several names, which are read by how they begin
    assert set(words_of("unread_methods")) <= {*READERS, "modelopt"}
