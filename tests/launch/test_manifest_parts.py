"""A part of a manifest is read as it would be in the whole one, and says that it is one."""

from __future__ import annotations

import pytest

from meshwise.launch import parse

CONTAINER = """- name: engine
  image: vllm/vllm-openai:v0.9
  args: ["--model", "org/m", "--tensor-parallel-size", "4"]
  resources: {limits: {nvidia.com/gpu: 4}}
"""


def _under(head: str, text: str, by: int = 2) -> str:
    return head + "".join(" " * by + line + "\n" for line in text.splitlines())


POD = _under("containers:\n", CONTAINER)
TEMPLATE = _under("spec:\n", POD)
DEPLOYED = _under("template:\n", TEMPLATE)
PARTS = {
    "containers": POD,
    "a list of containers": CONTAINER,
    "a container": CONTAINER.replace("- name", "  name").replace("\n  ", "\n").removeprefix("  "),
    "a pod's spec": TEMPLATE,
    "a pod's spec beside its labels": "metadata: {name: x}\n" + TEMPLATE,
    "a template": DEPLOYED,
    "a deployment's spec": _under("spec:\n", DEPLOYED),
    "indented as it stood": _under("", POD, 6),
}
WHOLE = {
    "pod": "apiVersion: v1\nkind: Pod\n" + TEMPLATE,
    "compose": "services:\n  engine:\n    image: vllm/vllm-openai:v0.9\n"
    "    command: --model org/m --tensor-parallel-size 4\n",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_read(name: str) -> None:
    part, whole = parse(PARTS[name]), parse(WHOLE["pod"])
    assert part.job == whole.job and part.job.tp == 4
    assert any("part of a manifest" in note for note in part.notes)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_one_says_nothing_of_it(name: str) -> None:
    read = parse(WHOLE[name])
    assert read.job.tp == 4 and not any("part of a manifest" in note for note in read.notes)


def test_copies_of_a_part_are_those_that_it_says() -> None:
    read = parse(_under("spec:\n", "replicas: 3\n" + DEPLOYED))
    assert (read.job.tp, read.job.dp) == (4, 3)
