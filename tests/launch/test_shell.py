"""What of a shell text changes its variables, and what only looks so."""

from __future__ import annotations

import re

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

SERVE = "vllm serve org/m --tensor-parallel-size"


@pytest.mark.parametrize(
    "text",
    [
        "TP=8\n( TP=4 )",
        "TP=8; (TP=4; echo hi)",
        "TP=8\necho x | TP=4",
        "TP=8\n{ TP=4; } &",
        "TP=8\nbash -c 'TP=4'",
        "TP=8\nf() (\n TP=4\n)\nf",
        "TP=8\nX=$(TP=4; echo $TP)",
        "TP=8\n( exit 1 )",
        "( cd /x && TP=4 )\nTP=8",
    ],
)
def test_a_shell_of_its_own_keeps_its_variables(text: str) -> None:
    assert parse(f"{text}\n{SERVE} $TP\n").job.tp == 8


@pytest.mark.parametrize(
    "text",
    [
        f"TP=4\n( TP=8; {SERVE} $TP )",
        f"f() {{ TP=8; }}\nf\n{SERVE} $TP",
        f"TP=4\n{{ TP=8; }}\n{SERVE} $TP",
        f"eval TP=8\n{SERVE} $TP",
        f"{{\n{SERVE} 8\n}} | tee log",
        f"A=([0]=8)\n{SERVE} ${{A[@]}}",
        f"let TP=2*4\n{SERVE} $TP",
        f"N=1\nlet N++\nlet 'TP = N * 4'\n{SERVE} $TP",
        f"(( TP = 16 / 2 ))\n{SERVE} $TP",
        f"TP=4; (( TP *= 2 ))\n{SERVE} $TP",
        f"read TP PP <<< '8 1'\n{SERVE} $TP",
        f"declare -A C=([tp]=8 [pp]=2)\n{SERVE} ${{C[tp]}}",
        f"declare -A C\nC[tp]=8\nK=tp\n{SERVE} ${{C[$K]}}",
        f"A=(1 2)\nA[0]=8\n{SERVE} ${{A[0]}}",
        f"{SERVE} 8 2>&1 | tee log",
        f"{SERVE} 8 &\nwait",
    ],
)
def test_what_a_shell_itself_does_to_variables(text: str) -> None:
    assert parse(text + "\n").job.tp == 8


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("TP=8\nread TP", "read in line 2 gives $TP"),
        ("read -r -p 'TP? ' TP", "read in line 1 gives $TP"),
        ("echo\nlet TP=COUNT*2", "let in line 2 gives $TP"),
        ("mapfile -t TP < hosts", "mapfile in line 1 gives $TP"),
        ("printf -v TP '%d' $COUNT", "printf -v in line 1 gives $TP"),
        ("while read TP; do echo; done < hosts", "read in line 1 gives $TP"),
        ("TP=8\n(( TP = COUNT / 2 ))", "((…)) in line 2 gives $TP"),
    ],
)
def test_what_does_not_follow_from_the_text_is_named_where_it_matters(text: str, what: str) -> None:
    for value in ("$TP", "${TP:-8}"):  # the default is not what it gives
        with pytest.raises(MeshwiseError, match=re.escape(what)):
            parse(f"{text}\n{SERVE} {value}\n")
    assert parse(f"{text}\n{SERVE} 8\n").job.tp == 8
