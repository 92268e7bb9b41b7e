"""A stack: its groups, its switches by their own names, and what is checked wherever it is made."""

import copy
import pickle
import typing

import pytest

import meshwise as mw
from meshwise.answers.records.cluster import stack_record
from meshwise.errors import InputError
from meshwise.stacks.fields import switches_of
from meshwise.stacks.stack import FIELDS, NAMES, Stack, replaced, stated, taking
from meshwise.stacks.switches import GROUPS, HOME, switch_named, words_of


def test_every_switch_is_in_one_group_and_under_its_own_name():
    fields = [name for struct in GROUPS.values() for name in struct.__struct_fields__]
    assert sorted(fields) == sorted(NAMES) == sorted(HOME)
    stack = mw.stack("nemo")
    for name, group in HOME.items():
        assert getattr(stack, name) == getattr(getattr(stack, group), name)
    assert not set(GROUPS) & set(NAMES)


def test_a_record_has_every_switch_flat_and_in_order():
    record = stack_record(mw.stack("ideal"))
    assert tuple(record) == FIELDS[:-1]  # without sources
    assert FIELDS[:5] == ("name", "title", "runs", "ideal", "attention")
    assert record["ideal"] is True and record["schedule"] == "1f1b"


@pytest.mark.parametrize("name", NAMES)
def test_the_field_says_what_is_legal(name):
    switch = switch_named(name)
    assert switch.meaning.endswith(".") and switch.legal
    with pytest.raises(InputError, match=rf"stack\.{name}"):
        Stack(name="x", **{name: object()})
    assert getattr(Stack(name="x", **{name: switch.default}), name) == switch.default
    for word in switch.words:
        given = (word,) if isinstance(switch.default, tuple) else word
        assert getattr(Stack(name="x", **{name: given}), name) == given
    if switch.range is not None:
        for value in (switch.range.low, switch.range.high):
            assert getattr(Stack(name="x", **{name: value}), name) == value
        with pytest.raises(InputError):
            Stack(name="x", **{name: switch.range.high * 1.01 + 1})


def test_every_field_is_annotated():
    for struct in GROUPS.values():
        assert struct.__doc__
        for hint in struct.__annotations__.values():
            assert typing.get_origin(hint) is typing.Annotated
        assert switches_of(struct)
    assert words_of("attention") == ("flash", "unfused")


def test_an_unknown_switch_is_refused_with_the_nearest():
    for make in (mw.stack, lambda name, **k: Stack(name=name, **k)):
        with pytest.raises(InputError, match="unknown key 'custom_all_reduc'") as refused:
            make("vllm", custom_all_reduc=True)
        assert refused.value.nearest == "custom_all_reduce"


def test_a_stack_is_made_of_keywords_and_is_frozen():
    stack = Stack(name="mine", attention="unfused", shards=["none"])
    assert stack.kernels.attention == "unfused" and stack.can.shards == ("none",)
    assert stack.software == "mine"
    for name in ("name", "attention", "kernels"):
        with pytest.raises(AttributeError):
            setattr(stack, name, "x")
    assert pickle.loads(pickle.dumps(stack)) == copy.deepcopy(stack) == stack
    assert stack != replaced(stack, {"attention": "flash"})
    with pytest.raises(InputError, match=r"stack\.name"):
        Stack(name=3)


def test_what_someone_asked_for_is_told_from_what_a_stack_does():
    plain = mw.stack("torchtitan-fsdp")
    assert not stated(plain, "loss_chunks")
    assert not stated(mw.stack(plain, loss_chunks=8), "loss_chunks")  # as it does by itself
    asked = mw.stack(plain, loss_chunks=4)
    assert stated(asked, "loss_chunks") and not stated(asked, "attention")
    assert not stated(mw.stack("torchtitan-2024"), "loss_chunks")
    assert stated(Stack(name="x", loss_chunks=2), "loss_chunks")


def test_a_share_of_memory_takes_the_place_of_the_reserve():
    assert taking(mw.stack("vllm"), 0.8).memory_reserve == 0.2
    assert taking(mw.stack("vllm"), None) == mw.stack("vllm")
    ideal = mw.stack("ideal")
    assert taking(ideal, 0.8) is ideal
