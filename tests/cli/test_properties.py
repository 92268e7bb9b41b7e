"""Random command lines and random cluster files: an answer or one line, never an exception."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import run
from test_bad_input import GOOD, OWN

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NASTY = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "0",
            "-1",
            "1",
            "2",
            "8",
            "3.5",
            "nan",
            "inf",
            "1e30",
            "8,",
            ",",
            "1,2",
            "1-8",
            "٣",
            "none",
        ]
    ),
    st.sampled_from(
        ["full", "fp8", "int4", "bf16", "split", "flash", "latency", "decode", "ideal", "vllm"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12),
    st.builds(
        "{}{}".format, st.floats(), st.sampled_from([" GB", "GB/s", " us", "gb", " TFLOP/s"])
    ),
)
OPTIONS = [
    "--seq --batch --micro-batch --context --tp --pp --dp --cp --ep --etp --vp --nodes --nics --ranks "
    "--ranks-per-node --gpus --phase --recompute --dtype --weight-dtype --kv-dtype --comm-dtype "
    "--grad-dtype --stack --attention --overlap --objective --limit-threshold --shard --foo"
][0].split()
FLAGS = st.sampled_from(["--ideal", "--sequence-parallel", "--csv", "--toml", "-h", "--", "-x"])
PAIRS = st.lists(st.tuples(st.sampled_from(OPTIONS), NASTY), max_size=4)
BASE = {
    "scale": ["gpt2", "--on", "dgx-a100", "--seq", "64"],
    "estimate": ["olmoe-1b-7b", "--on", "hgx-h100", "--seq", "64"],
    "explain": ["gpt2", "--on", "dgx-a100", "--seq", "64"],
    "collective": ["all_reduce", "1MB", "--on", "dgx-a100"],
    "model": ["gpt2"],
    "catalog": ["devices", "h100"],
}


def check(argv):
    """The contract of an answer, whatever was asked."""
    ran = run(*argv)
    assert ran.code in (0, 2, 3), (argv, ran)
    if ran.code:
        if "--json" in argv:
            assert set(ran.json()) == {"error"}
            assert ran.err == ""
        else:
            assert ran.out == ""
            assert len(ran.err.splitlines()) == 1
    else:
        assert ran.err == ""
        if "--json" in argv and not {"-h", "--toml"} & set(argv):
            assert ran.json()


@SETTINGS
@given(st.sampled_from(sorted(BASE)), PAIRS, st.lists(FLAGS, max_size=1), st.booleans())
def test_options(command, pairs, flags, as_json):
    extra = [part for pair in pairs for part in pair]
    check([command, *BASE[command], *extra, *flags, *(["--json"] if as_json else [])])


@SETTINGS
@given(st.sampled_from(sorted(BASE)), st.integers(0, 4), NASTY.filter(lambda t: t.count("/") != 1))
def test_one_argument_replaced(command, place, text):
    argv = list(BASE[command])
    argv[min(place, len(argv) - 1)] = text
    check([command, *argv])
    check([command, *argv, "--json"])


@SETTINGS
@given(st.lists(st.text(max_size=10), max_size=4))
def test_any_words(words):
    check(words)


VALUES = st.one_of(
    NASTY.map(lambda t: '"' + "".join(c for c in t if c.isprintable() and c not in '"\\') + '"'),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["true", "[]", "{}", "[8]", "1979-05-27", "07:32:00", "{a=1}", "0x" + "f" * 5000]
    ),
)


@SETTINGS
@given(st.data())
def test_one_value_of_a_cluster_file(toml, data):
    lines = data.draw(st.sampled_from([GOOD, OWN])).splitlines()
    i = data.draw(st.integers(0, len(lines) - 1))
    key = lines[i].partition(" = ")[0]
    lines[i] = (
        f"{key} = {data.draw(VALUES)}" if " = " in lines[i] else data.draw(st.text(max_size=9))
    )
    check(["scale", "gpt2", "--seq", "64", "--on", toml("\n".join(lines)), "--json"])


@SETTINGS
@given(st.data())
def test_any_cut_of_a_cluster_file(toml, data):
    text = data.draw(st.sampled_from([GOOD, OWN])).encode()
    i, j = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    check(
        [
            "scale",
            "gpt2",
            "--seq",
            "64",
            "--on",
            toml(text[:i] + data.draw(st.binary(max_size=9)) + text[j:]),
        ]
    )


@settings(SETTINGS, max_examples=60)
@given(
    st.sampled_from(["scale", "estimate"]),
    st.sampled_from(["gpt2", "gpt3-175b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b"]),
    st.sampled_from(
        ["dgx-a100", "hgx-h100", "this-cpu", "rtx-4090-8x", "gb200-nvl72", "mi300x-node"]
    ),
    st.sampled_from(["train", "prefill", "decode"]),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
)
def test_legal_numbers_are_answered(command, model, cluster, phase, batch, seq):
    tokens = "--context" if phase == "decode" else "--seq"
    argv = [
        command,
        model,
        "--on",
        cluster,
        "--phase",
        phase,
        "--batch",
        str(batch),
        tokens,
        str(seq),
    ]
    ran = run(*argv, "--json")
    assert ran.code == 0, ran
    record = ran.json()
    for point in record.get("points", [record]):
        assert point["step_s"] > 0
        parts = point["compute_s"] + point["exposed_comm_s"] + point["bubble_s"] + point["host_s"]
        assert point["step_s"] == parts
