"""Words as bash itself makes them: each snippet is run in bash in a folder of its own, where a command
`probe` prints its words, and followed here without running anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from meshwise.launch.shell.commands import read_script

BASH = shutil.which("bash")
PROBE = 'probe() { printf "%s\\0" "<" "$@" ">"; }\n'
SNIPPETS = (
    """X=8; probe $X "$X" '$X' a$X"b"c""",
    """X="a  b   c"; probe $X "$X" x${X}y " $X " """,
    """X=" a b "; probe x${X}y [$X]""",
    'A=(1 "2 3" $(echo 4 5) # said\n -x); probe ${A[@]} "${A[@]}" "${A[*]}" ${#A[@]} "${A[-1]}" $A',
    'A=(1 2 3 4); probe "${A[@]:1:2}" "${!A[@]}" "${A[$((1+1))]}" ${A[3]}',
    'A=(); A+=(a "b c"); A+=(d); probe "${A[@]}" "x${A[@]}y"',
    'A=(); probe "${A[@]}" "${A[*]}" ${A[@]} ""',
    "X=path/to/m.tar.gz; probe ${X##*/} ${X#*/} ${X%.*} ${X%%.*} ${X/to/at} ${X//t/T} ${X/%gz/Z}",
    "X=path/to/m; probe ${X:5} ${X:5:2} ${X: -2} ${X^^} ${X^} ${#X} ${X/#path/P} ${X//[at]/-}",
    'X=ABC; probe ${X,,} ${X,} ${X:-d} ${Y:-d e} "${Y:-d e}" ${Y:=z} $Y ${X:+s}',
    'X=; probe "${X:-d}" "${X-d}" "${X:+a}" "${X+a}"',
    """probe ${X:-"a b"} "${X:-"q r"}" "${X:-'s'}" ${X:-'t u'}""",
    'A=(a "b c"); probe ${A[@]+"${A[@]}"} "${B[@]+"${B[@]}"}" end',
    "N=3; probe $((N*2)) $((N**2-1)) $((7/2)) $((-7/2)) $((-7%3)) $((N>2?5:6)) $((0x10)) $((2#101))",
    'i=0; ((i++)); ((i+=5)); let "j = i*2" k=1; probe $i $j $k $((i++)) $i $((++i))',
    "declare -i N=2; N+=3; N=N*2; probe $N",
    "for i in 1 2 3; do probe $i; done; for ((k=0;k<3;k++)); do probe --rank $k; done; probe $i $k",
    "for x in a b c d; do [ $x = b ] && continue; [ $x = d ] && break; probe $x; done; probe $x",
    "N=0; while [ $N -lt 3 ]; do N=$((N+1)); probe $N; done; until [ $N -le 1 ]; do ((N--)); done; probe $N",
    'f() { probe "$1" "$#" "$@"; shift; probe "$@" "$*"; }; f a "b c" d',
    "f() { local X=5; Y=6; }; X=1; f; probe $X $Y",
    'set -- a b "c d"; probe $# "$2" "$3" "${@:2}"; shift 2; probe "$@"',
    'set -- --tp 4 --pp=2 rest; while [[ $# -gt 0 ]]; do case "$1" in --tp) TP="$2"; shift 2;; '
    '--pp=*) PP="${1#*=}"; shift;; *) R+=("$1"); shift;; esac; done; probe $TP $PP "${R[@]}"',
    'set -- -t 4 -p 2 x; while getopts "t:p:" o; do case $o in t) TP=$OPTARG;; p) PP=$OPTARG;; esac; '
    'done; shift $((OPTIND-1)); probe $TP $PP "$@"',
    "case 7b in 7b|8b) X=1;; *) X=2;; esac; case abc in (a?c) Y=1;; esac; probe $X $Y",
    "if false; then X=2; elif true; then X=3; else X=4; fi; probe $X; ! true || probe no",
    'X=a; [[ $X == a* && -n "$X" ]] && probe 1 || probe 2; [[ 10 > 9 ]] || probe s',
    "X='*'; [[ abc == $X ]] && probe g; [[ abc == \"$X\" ]] || probe h; [ -n '' -o a = a ] && probe o",
    "X=ab12; [[ $X =~ ^([a-z]+)([0-9]+)$ ]] && probe ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}",
    'X=$(cat <<EOF\na "b" $((1+1))\nc\nEOF\n); probe "$X" $X',
    'cat <<-EOF > z\n\ta\n\t\tb\n\tEOF\nprobe "$(cat z)"',
    "cat > h.sh <<EOF\nX=inner\nEOF\nsource h.sh; probe $X",
    'read A B <<< "1 2 3"; IFS=, read -r C D <<< "4,5,6"; probe "$A" "$B" "$C" "$D"',
    'IFS=\',\' read -ra A <<< "0,1,2"; mapfile -t B <<< $\'a b\\nc\'; probe "${A[@]}" "${B[@]}"',
    "X=a:b:c; IFS=:; probe $X",
    "probe $(seq 3) $(seq -s, 1 4) $(basename /a/b.sh .sh) $(dirname /a/b) $(printf '%03d' 5)",
    'probe $(echo "a:b:c" | cut -d: -f2) $(echo abc | tr a-z A-Z) $(echo "a b c" | wc -w)',
    "probe $(echo 1 2 | awk '{print $2}') `echo a b` \"`echo c`\"; printf -v X '%s-%02d' a 7; probe $X",
    'probe {1..3} {a,b}c x{1..2}{a,b} "{1,2}" {01..03} {a..c} {x} a{,b}',
    'declare -A M=([tp]=8 [pp]="2 3"); K=tp; probe ${M[tp]} "${M[pp]}" "${M[$K]}" ${#M[@]}',
    'A=([0]=a [2]=c); probe "${A[@]}" "${!A[@]}"; A[1]=b; probe "${A[@]}"; N=A; probe ${!N}',
    'CMD="probe --a \'b c\' \\"d e\\""; eval $CMD; eval "$CMD"; $CMD',
    "probe a\\ b \"c\\\"d\" 'e'\\''f' $'t\\tn\\n' \"g\\$X\" h\\\ni \"j\\\nk\"",
    'probe "a"\\ "b" x"y"\\ z; probe a; # said\nprobe c#d # "open',
    "X=1; (X=2; probe $X); probe $X; { X=3; }; X=4 | true; probe $X",
    'set -- q; set -euo pipefail; probe $# "$@"; set -x -o nounset -- a -b; probe $# "$@"; set c; probe "$@"',
    'X="--a 1 \\\n  --b 2 \\\n  "; Y=" \\\n $X \\\n $X \\\n"; probe $Y',
    "false || probe a; true && probe b; false && probe c || probe d",
    'X=5; X=$X$X; X+="$X"; probe $X $[1+1]; unset X; X+=a; probe $X',
    'Y=1; X=2; export C="a "n=$X,m=$Y" b"; D="a "n=$X" b"; probe "$C" "$D" "p"q=$X,z=$Y',
    'A=(a # said: (not) an entry\n "b" # again\n); X=a"b"\\ c; probe "${A[@]}" "$X"',
)


@pytest.mark.skipif(BASH is None, reason="no bash here")
@pytest.mark.parametrize("text", SNIPPETS)
def test_words_are_those_of_bash(text: str, tmp_path: Path) -> None:
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", PROBE + text + "\n"],
        capture_output=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )
    expected: list[list[str]] = []
    for word in done.stdout.decode().split("\0")[:-1]:
        if word == "<":
            expected.append([])
        elif word != ">":
            expected[-1].append(word)
    assert expected  # it printed something
    (script,) = read_script(text)
    found = [c.words[1:] for c in script.commands if c.words[0] == "probe"]
    assert found == expected
