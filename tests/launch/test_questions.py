"""What a text leaves open is asked for in one message, and one round of answers is enough."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

FIVE = """#!/bin/bash
torchrun --nnodes $SLURM_NNODES --nproc-per-node $GPUS_PER_NODE pretrain_gpt.py \\
    --tensor-model-parallel-size $1 \\
    --pipeline-model-parallel-size ${PP} \\
    --micro-batch-size $MBS
"""


def _asked(text: str, **more: object) -> list[dict[str, object]]:
    with pytest.raises(MeshwiseError) as caught:
        parse(text, **more)
    return caught.value.to_dict()["error"]["asked"]


def test_five_at_once() -> None:
    asked = _asked(FIVE)
    assert [(q["name"], q["line"]) for q in asked] == [
        ("$SLURM_NNODES", 2),
        ("$GPUS_PER_NODE", 2),
        ("$1", 3),
        ("$PP", 4),
        ("$MBS", 5),
    ]
    assert {q["option"] for q in asked} == {"values"}
    answers = {"SLURM_NNODES": "4", "GPUS_PER_NODE": "8", "1": "8", "PP": "2", "MBS": "1"}
    job = parse(FIVE, values=answers).job
    assert (job.tp, job.pp, job.dp, job.micro_batch) == (8, 2, 2, 1)


def test_the_number_of_gpus_in_place_of_the_launchers_own() -> None:
    answers = {"1": "8", "PP": "2", "MBS": "1"}
    assert parse(FIVE, values=answers, gpus=32).job.dp == 2
    assert {q["name"] for q in _asked(FIVE, gpus=32)} == {"$1", "$PP", "$MBS"}


def test_over_branches_and_a_script_within() -> None:
    text = """if [ -n "$BIG" ]; then
  TP=$BIG_TP
else
  TP=$SMALL_TP
fi
cat > inner.sh <<'EOF'
torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py --bf16 \\
  --tensor-model-parallel-size $TP --pipeline-model-parallel-size $STAGES --micro-batch-size $MBS
EOF
TP=$TP STAGES=$STAGES bash inner.sh
"""
    names = {q["name"] for q in _asked(text)}
    assert {"$BIG_TP", "$SMALL_TP", "$STAGES", "$MBS"} <= names
    values = {"BIG_TP": "8", "SMALL_TP": "8", "STAGES": "2", "MBS": "1"}
    job = parse(text, values=values).job
    assert (job.tp, job.pp, job.dp) == (8, 2, 1)


def test_a_file_is_asked_for_with_the_rest() -> None:
    text = "vllm serve org/m --config more.yaml \\\n  -tp $TP"
    asked = _asked(text)
    assert [(q["name"], q["option"], q["line"]) for q in asked] == [
        ("$TP", "values", 2),
        ("more.yaml", "files", 1),
    ]
    files = {"more.yaml": "pipeline-parallel-size: 2\n"}
    job = parse(text, values={"TP": "4"}, files=files).job
    assert (job.tp, job.pp) == (4, 2)


def test_values_that_the_text_does_not_have() -> None:
    for values in ({"TQ": "8"}, {"no name": "8"}):
        with pytest.raises(MeshwiseError) as caught:
            parse("vllm serve org/m -tp $TP", values=values)
        assert caught.value.field == "values"


def test_a_value_that_the_text_sets_itself_is_said() -> None:
    read = parse("TP=4\nvllm serve org/m -tp $TP", values={"TP": "8"})
    assert read.job.tp == 4
    assert any("TP" in note and "values" in note for note in read.notes)


def test_a_value_of_a_program_is_given() -> None:
    text = "TP=$(count_gpus)\nvllm serve org/m -tp $TP"
    assert [q["name"] for q in _asked(text)] == ["$TP"]
    assert parse(text, values={"TP": "8"}).job.tp == 8


def test_all_arguments_and_the_twelfth_are_asked_for_by_their_names() -> None:
    assert [q["name"] for q in _asked('vllm serve org/m "$@"')] == ["$@"]
    assert parse('vllm serve org/m "$@"', values={"@": "-tp 4"}).job.tp == 4
    text = "TP=${12}\nvllm serve org/m -tp $TP"
    assert [q["name"] for q in _asked(text)] == ["$12"]
    assert parse(text, values={"12": "4"}).job.tp == 4


def test_a_chat_template_is_no_template_of_the_file() -> None:
    said = '"{% for m in messages %}{{ m }}{% endfor %}"'
    assert parse(f"vllm serve org/m -tp 2 --chat-template {said}").job.tp == 2


def test_a_flag_of_another_first_letter_is_no_slip() -> None:
    text = (
        "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --patch-size 14"
    )
    assert parse(text).job.tp == 2


def test_a_loop_that_reads_lines_starts_a_command_for_each() -> None:
    text = (
        'while read -r m tp; do\n  vllm serve "$m" -tp "$tp" &\ndone <<EOF\norg/a 1\norg/b 4\nEOF\n'
    )
    assert parse(text, which=2).job.tp == 4
    open_ = text.replace("<<EOF\norg/a 1\norg/b 4\nEOF", "< models.txt")
    assert [q["name"] for q in _asked(open_)] == ["$m", "$tp"]


def test_arguments_of_a_function_are_those_of_the_script() -> None:
    text = 'main() { local tp="${1:-4}"; vllm serve org/m -tp "$tp"; }\nmain "$@"\n'
    assert [q["name"] for q in _asked(text)] == ["$@"]
    assert parse(text, values={"@": ""}).job.tp == 4
    assert parse(text, values={"@": "2"}).job.tp == 2
    assert parse(text, values={"1": "2"}).job.tp == 2
    shifted = 'N=${1:-4}\nshift\nvllm serve org/m -tp "$N" "$@"\n'
    assert parse(shifted, values={"1": "8"}).job.tp == 8
    assert parse(shifted, values={"1": "8", "2": "-pp", "3": "2"}).job.pp == 2
