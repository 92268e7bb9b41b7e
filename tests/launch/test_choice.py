"""Several launches in one text: all are listed, one is chosen, none by itself."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

RUN = "torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py --bf16"
TWO = f"{RUN} --tensor-model-parallel-size 8\n{RUN} --tensor-model-parallel-size 2"
SERVERS = """services:
  chat:
    image: vllm/vllm-openai:v0.9
    command: --model org/chat --tensor-parallel-size 4
  code:
    image: lmsysorg/sglang:latest
    command: python3 -m sglang.launch_server --model-path org/code --tp 8
"""
PAIR = """apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: prefill
        image: vllm/vllm-openai:v0.9
        args: ["--model", "org/m", "--tensor-parallel-size", "2", "--kv-transfer-config", '{"kv_role":"kv_producer"}']
      - name: decode
        image: vllm/vllm-openai:v0.9
        args: ["--model", "org/m", "--tensor-parallel-size", "4", "--kv-transfer-config", '{"kv_role":"kv_consumer"}']
"""


def _error(text: str, **more: object) -> MeshwiseError:
    with pytest.raises(MeshwiseError) as caught:
        parse(text, **more)
    assert "\n" not in str(caught.value)
    return caught.value


def test_all_are_listed() -> None:
    error = _error(TWO)
    listed = error.to_dict()["error"]["commands"]
    assert [(c["number"], c["line"], c["layout"]) for c in listed] == [
        (1, 1, "tp=8 dp=2"),
        (2, 2, "tp=2 dp=8"),
    ]
    assert "tp=8 dp=2" in str(error) and "which=N" in str(error)


def test_one_is_chosen_by_its_number_or_its_name() -> None:
    assert [parse(TWO, which=n).job.tp for n in (1, "2")] == [8, 2]
    assert parse(TWO, which=1).commands == 2
    assert parse(SERVERS, which="sglang").job.tp == 8
    assert parse(SERVERS, which="org/chat").job.tp == 4


@pytest.mark.parametrize(("which", "nearest"), [(0, 1), (3, 2), ("99", 2), ("other", None)])
def test_none_of_them(which: object, nearest: int | None) -> None:
    error = _error(TWO, which=which)
    assert (error.field, error.nearest) == ("which", nearest)


def test_a_number_beyond_the_only_one() -> None:
    text = f"{RUN} --tensor-model-parallel-size 8"
    assert parse(text, which=1).job.tp == 8
    assert _error(text, which=2).field == "which"


def test_commands_that_agree_are_one() -> None:
    again = parse(f"{RUN} --tensor-model-parallel-size 8\n{RUN} --tensor-model-parallel-size 8")
    assert (again.job.tp, again.commands) == (8, 1)


def test_branches_show_their_conditions() -> None:
    text = f'if [ "$SIZE" = big ]; then TP=8; else TP=2; fi\n{RUN} --tensor-model-parallel-size $TP'
    listed = _error(text).to_dict()["error"]["commands"]
    assert [c["layout"] for c in listed] == ["tp=8 dp=2", "tp=2 dp=8"]
    assert all(c["conditions"] for c in listed) and "big" in listed[0]["conditions"][-1]
    assert parse(text, which=2).job.tp == 2
    assert parse(text, values={"SIZE": "big"}).job.tp == 8
    alike = text.replace("TP=2", "TP=8")
    assert parse(alike).job.tp == 8


def test_a_disaggregated_pair_is_said_as_one() -> None:
    error = _error(PAIR)
    listed = error.to_dict()["error"]["commands"]
    assert [(c["role"], c["layout"]) for c in listed] == [("prefill", "tp=2"), ("decode", "tp=4")]
    assert "disaggregated pair" in str(error)
    chosen = _error(PAIR, which=2)
    assert chosen.field == "--kv-transfer-config" and "decode" in chosen.message


def test_what_all_of_them_leave_open_stands_in_the_list() -> None:
    text = f"{RUN} --tensor-model-parallel-size $A\n{RUN} --tensor-model-parallel-size $B"
    asked = _error(text).to_dict()["error"]["asked"]
    assert [q["name"] for q in asked] == ["$A", "$B"]
    assert parse(text, which=2, values={"B": "4", "A": "2"}).job.tp == 4
