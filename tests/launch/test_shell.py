"""What of a shell text changes its variables, and what only looks so."""

from __future__ import annotations

import re

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse
from meshwise.launch.shell.commands import read_script

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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('echo a\nvllm serve "m -tp 2\n', "no closing quotation in line 2"),
        ("echo a\ncat > f <<EOF\nvllm serve m -tp 2\n", "here-document without its end in line 2"),
        ('X=1\nif [ -n "$A" ]; then\nvllm serve m -tp 2\n', "`if` without its `fi` in line 2"),
        ("for i in a b; do\nvllm serve m -tp 2", "a loop without its `done` in line 1"),
        ("TP=$(echo 2\nvllm serve m -tp 2", "no closing bracket in line 1"),
        ("vllm serve m -tp 2\0", "a byte of value 0 in line 1"),
        ("f() { f; }\nf\nvllm serve m -tp 2", "functions that call themselves"),
        ("vllm serve " + "{a,b}" * 40, "braces that make more than"),
    ],
)
def test_what_is_not_closed_or_has_no_end_is_named_with_its_line(text: str, what: str) -> None:
    with pytest.raises(MeshwiseError, match=re.escape(what)) as error:
        parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"TP=8\nbash -c '{SERVE} $TP'", "TP"),  # not exported
        (f"TP=8\nexport TP\nssh host '{SERVE} $TP'", "TP"),
        (f"TP=$(nvidia-smi -L | wc -l)\n{SERVE} ${{TP:-8}}", "TP"),
        (f"N=8\nwhile read x; do N=$((N+1)); done < hosts\n{SERVE} $N", "N"),
        (f"for i in $LIST; do TP=$i; done\n{SERVE} $TP", "TP"),
        (f'CMD="{SERVE} $TP"\nTP=8\neval $CMD', "TP"),  # its value at that place
        (f"{SERVE} $((NODES * 2))", "NODES"),
        (f"shift\nTP=$1\n{SERVE} $TP", "1"),
        (f"cat > e.sh <<EOF\nTP=4\nEOF\nsed -i s/4/8/ e.sh\nsource e.sh\n{SERVE} $TP", "TP"),
    ],
)
def test_what_only_a_run_knows_is_asked_by_name(text: str, name: str) -> None:
    with pytest.raises(MeshwiseError, match=rf"\${name}\b"):
        parse(text + "\n")


@pytest.mark.parametrize(
    "text",
    [
        f"cd /code || exit 1\n{SERVE} 8",
        f"[ -d /x ] && echo found\n{SERVE} 8 || exit 1",
        f"if ! {SERVE} 8; then exit 1; fi",
        f"TP=8 bash -c '{SERVE} $TP'",
        f"export TP=8\nbash <<'EOF'\n{SERVE} $TP\nEOF",
        f"cat > run.sh <<'EOF'\n{SERVE} $1\nEOF\nbash run.sh 8",
        f"echo '{SERVE} 8' | bash",
        f"while [[ $# -gt 0 ]]; do case $1 in --tp) TP=$2; shift 2;; esac; done\n{SERVE} ${{TP:-8}}",
        f"set -- --tp 8\nwhile [[ $# -gt 0 ]]; do case $1 in --tp) TP=$2; shift 2;; esac; done\n{SERVE} $TP",
        f"export TOKEN=<your token>\n{SERVE} 8",
        f"TP=8\r\n{SERVE} $TP\r\n",
        f'O=" \\\n  --port 80 \\\n "\n{SERVE} 8 $O',
        f"while true; do {SERVE} 8; sleep 5; done",
        f"TP=8\nX=${{X:$((1))+2}}\n{SERVE} $TP",
    ],
)
def test_scripts_as_people_write_them(text: str) -> None:
    assert parse(text + "\n").job.tp == 8


def test_words_know_their_lines() -> None:
    text = 'TP=2\nA=(\n --port 80 # said\n --seed\n 1)\nCMD="vllm serve m \\\n -tp $TP"\n$CMD "${A[@]}"\n'
    (script,) = read_script(text)
    (command,) = script.commands
    assert list(zip(command.words, command.lines, strict=True)) == [
        ("vllm", 6),
        ("serve", 6),
        ("m", 6),
        ("-tp", 7),
        ("2", 1),
        ("--port", 3),
        ("80", 3),
        ("--seed", 4),
        ("1", 5),
    ]


def test_values_and_files_that_are_given_beside_a_text() -> None:
    text = f"source env.sh\nN=$(wc -l < hosts)\n{SERVE} $((TP * N))\n"
    (script,) = read_script(text, given={"N": "2"}, files={"env.sh": "TP=4\n"})
    assert script.commands[-1].words[-1] == "8"


def test_a_text_that_is_read_again_is_read_with_what_is_given_then() -> None:
    """What a shell does with a text is kept for the next reading of it, with what is beside it."""
    text = "source env.sh\nvllm serve m -tp ${TP:-2} -pp ${PP:-1}"

    def words(given: dict[str, str], files: dict[str, str]) -> list[str]:
        (script,) = read_script(text, given=given, files=files)
        return script.commands[-1].words[3:]

    wanted = ["-tp", "4", "-pp", "1"]
    assert words({}, {}) == words({}, {}) == ["-tp", "2", "-pp", "1"]
    assert words({"TP": "4"}, {}) == words({"TP": "4"}, {}) == wanted
    assert words({}, {"env.sh": "TP=4"}) == wanted
    assert words({}, {"env.sh": "PP=8"}) == ["-tp", "2", "-pp", "8"]
    words({}, {})[:] = []  # whoever changes an answer changes that one
    assert words({}, {}) == ["-tp", "2", "-pp", "1"]


def test_many_branches_leave_what_they_agree_on() -> None:
    """Ways are merged over and over: what some set is not known, what all set or none is."""
    branches = [f'if [ "$C{i}" = y ]; then A{i}={i}; SAME=7; else SAME=7; fi' for i in range(40)]
    text = "\n".join(["TP=2", *branches, "vllm serve m -tp $TP -pp $SAME --seed $A3"])
    for script in read_script(text):
        (command,) = script.commands
        assert command.words[:7] == ["vllm", "serve", "m", "-tp", "2", "-pp", "7"]
    assert any("A3" in s.commands[0].words[-1] for s in read_script(text))
