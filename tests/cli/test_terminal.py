"""On a terminal no cell is cut, whatever its width; nothing that names say reaches it as a command."""

import json
import re

import pytest
from running import run
from terminals import on_terminal
from tests.deep import deep

PLAN = ("plan", "llama-3.2-1b", "--on", "hgx-h100", "--nodes", "1", "--top", "3")
TRAIN = (*PLAN, "--global-batch", "32", "--seq", "2048")
SERVE = (*PLAN, "--isl", "512", "--osl", "64", "--concurrency", "16")
MOE = ("qwen3-30b-a3b", "--on", "hgx-h100", "--nodes", "2")
LAYOUT = (
    "--tp",
    "2",
    "--pp",
    "2",
    "--dp",
    "4",
    "--ep",
    "4",
    "--batch",
    "32",
    "--seq",
    "2048",
    "--sequence-parallel",
)
MEGATRON = "torchrun --nproc-per-node 8 pretrain_gpt.py --bf16 --tensor-model-parallel-size 2 --micro-batch-size 1"
TRAINED = ("--on", "hgx-h100", "--nodes", "1", "--global-batch", "32", "--seq", "2048")
SCALE = ("scale", "llama-3.1-8b", "--on", "hgx-h100", "--nodes", "2", "--seq", "2048")
DECODE = ("scale", "llama-3.1-8b", "--on", "hgx-h100", "--phase", "decode", "--context", "2048")
# command → what of its tables is shown at any width
SHOWN = {
    ("model", "qwen2-7b"): ["what", "value"],
    SCALE: ["TP", "step", "efficiency", "fits"],
    DECODE: ["TP", "step", "efficiency", "fits", "layout"],
    (*SCALE, "--gpus", "16", "--batch", "16"): ["GPUs", "layout", "step"],
    (*SCALE, "--sweep", "intra.bandwidth=50GB/s:600GB/s:3"): [
        "intra.bandwidth",
        "limit",
        "fastest",
    ],
    ("estimate", *MOE, *LAYOUT): ["axis", "group", "time", "exposed", "part", "share"],
    ("explain", *MOE, *LAYOUT): ["operation", "phase", "calls/step", "time"],
    TRAIN: ["TP", "PP", "DP", "mb", "step", "memory", "layout", "why"],
    (*TRAIN, "--price", "3"): ["TP", "PP", "DP", "mb", "step", "memory", "layout", "why"],
    (*TRAIN, "--compare", MEGATRON): ["TP", "PP", "DP", "change", "layout", "fits"],
    SERVE: ["TP", "PP", "DP", "in flight", "TPOT", "tokens/s/GPU", "layout"],
    (*SERVE, "--price", "3"): ["TP", "PP", "DP", "in flight", "TPOT", "tokens/s/GPU"],
    (
        *("plan", *MOE, "--gpus", "16", "--top", "3"),
        *("--global-batch", "64", "--seq", "2048", "--micro-batch", "1", "--dp", "8,16"),
    ): ["TP", "PP", "DP", "EP", "mb", "step", "memory"],
    (
        *("serve", "llama-3.1-8b", "--on", "hgx-h100", "--tp", "2"),
        *("--isl", "512", "--osl", "64", "--concurrency", "16"),
    ): ["what", "value"],
    ("collective", "all_reduce", "1MB", "--on", "dgx-a100"): ["algorithm", "time", "busbw"],
    ("catalog",): ["kind", "entries"],
    ("catalog", "models"): ["name", "parameters"],
    ("catalog", "devices"): ["name", "memory"],
    ("catalog", "fabrics"): ["name", "bandwidth", "latency"],
    ("catalog", "clusters"): ["name", "title"],
    ("catalog", "stacks"): ["name"],
    ("catalog", "cluster", "dgx-a100"): ["field", "value", "source"],
    ("catalog", "device", "h100"): ["field", "value", "source"],
    ("catalog", "model", "deepseek-v3"): ["field", "value"],
    ("validate", "--published", "layers"): ["quantity", "rows", "source", "predicted", "error"],
    ("import", MEGATRON, "--model", "llama-3.2-1b", *TRAINED): ["change", "layout", "step"],
    ("export", "vllm", "llama-3.1-8b", "--tp", "2"): [],
}

# every table of those that show the smallest one unasked
DETAIL = dict.fromkeys(("scale", "estimate", "plan", "serve"), ("--detail",))


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def whole():
    """What each command says into a pipe, asked once."""
    said: dict[tuple[str, ...], list[str]] = {}

    def ask(argv):
        if argv not in said:
            ran = run(*argv, *DETAIL.get(argv[0], ()))
            assert ran.code == 0, ran.err
            said[argv] = re.split(r"\s{2,}|\n", ran.out)
        return {piece for piece in said[argv] if piece}

    return ask


@pytest.mark.parametrize("width", [80, deep(120), deep(100)])
@pytest.mark.parametrize("argv", SHOWN, ids=" ".join)
def test_no_cell_is_cut(argv, width, whole):
    ran = on_terminal(width, *argv, *DETAIL.get(argv[0], ()))
    assert (ran.code, ran.err) == (0, "")
    cut = {w for w in ran.out.split() if w.endswith("…")}
    assert cut <= {w for piece in whole(argv) for w in piece.split()}
    for name in SHOWN[argv]:
        assert re.search(rf"(^|\s){re.escape(name)}(\s|$)", ran.out, re.M), name
    for line in ran.out.splitlines():
        assert len(line) <= width or " " not in line.strip(), line


@pytest.mark.parametrize("argv", [TRAIN, SERVE, ("catalog", "clusters")], ids=" ".join)
def test_what_is_left_out_is_named_and_wide_has_it(argv, whole):
    asked = (*argv, *DETAIL.get(argv[0], ()))
    narrow, wide = on_terminal(80, *asked).out, on_terminal(80, *asked, "--wide").out
    told = re.findall(r"(\d+) more columns? with --wide: (.*)", narrow)
    assert told
    for number, names in told:
        assert len(names.split(", ")) <= int(number)
        assert names.split(", ")[0] in wide
    assert "--wide" not in wide
    pieces = set(re.split(r"\s{2,}|\n", wide))
    elapsed = {p for p in whole(argv) - pieces if not re.search(r"\d (ms|s)\b", p)}
    assert not elapsed


def test_each_row_has_all_its_cells_where_the_layout_alone_is_too_wide():
    argv = (*TRAIN, "--price", "3")
    text = on_terminal(30, *argv).out
    for row in run(*argv).out.split("\n\n")[2].splitlines()[1:]:
        number, tp, pp, dp = row.split()[:4]
        assert f"# {number} · TP {tp} · PP {pp} · DP {dp}" in text
    assert "…" not in text


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "90"}])
def test_without_colour_tables_fit_as_well(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    text = on_terminal(80, "catalog", "clusters").out
    width = int(settings.get("COLUMNS", 80))
    assert 60 < max(len(line) for line in text.splitlines()) <= width


CLUSTER = """title = {title}
device = "a100-80gb-sxm"
[[level]]
name = {name}
ranks = 4
fabric = "nvlink3-nvswitch"
"""


def cluster_file(folder, name, title="4 x A100"):
    path = folder / "cluster.toml"
    path.write_text(CLUSTER.format(title=json.dumps(title), name=json.dumps(name)))
    return str(path)


@pytest.mark.parametrize("name", ["[/b]", "[/x]", "[red]", ":smile:", "[link file:///etc]a", "\\["])
def test_markup_in_a_name_is_text(name, tmp_path):
    where = cluster_file(tmp_path, name, title=name)
    for width in (80, 160):
        ran = on_terminal(
            width, "estimate", "gpt2", "--on", where, "--tp", "2", "--dp", "2", "--batch", "2",
            "--seq", "64", "--detail",
        )  # fmt: skip
        assert (ran.code, ran.err) == (0, "")
        assert name in ran.out
    sweep = f"{name}.bandwidth=50GB/s:200GB/s:2"
    ran = on_terminal(160, "scale", "gpt2", "--on", where, "--seq", "64", "--sweep", sweep)
    assert ran.code == 0
    assert f"{name}.bandwidth" in ran.out


STEERING = ["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\x08\x08", "\r", "\x7f", "\u202e", "\u2066"]
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def channels(folder, bad):
    """Commands that print a name with ``bad`` in it."""
    where = cluster_file(folder, f"n{bad}x", title=f"t{bad}x")
    table = folder / "t.csv"
    rows = [f"i{bad}d,all_reduce,h100-80gb-sxm,8,1048576,40", f"j{bad}d,all_{bad},a100,8,1,x"]
    rows.append(f"k{bad}d,all_reduce,h100{bad},8,1048576,40")
    with table.open("w", newline="") as out:
        out.write("\n".join(["id,op,device,ranks,bytes,time_us", *rows]))
    model = folder / f"m{bad}".replace("/", "")
    model.mkdir()
    config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 1000}
    (model / "config.json").write_text(json.dumps(config))
    on = ("--on", where)
    small = ("gpt2", *on, "--batch", "2", "--seq", "64")
    yield "estimate", *small, "--dp", "2"
    yield "explain", *small, "--dp", "2"
    yield "scale", *small
    yield "scale", *small, "--sweep", f"n{bad}x.bandwidth=50GB/s:200GB/s:2"
    yield "scale", *small, "--sweep", "nowhere=1:2"  # names the levels that there are
    yield "plan", "gpt2", *on, "--global-batch", "4", "--seq", "64"
    yield "plan", "gpt2", *on, "--isl", "64", "--osl", "8", "--concurrency", "2"
    yield "serve", "gpt2", *on, "--isl", "64", "--osl", "8", "--concurrency", "2"
    yield "collective", "all_reduce", "1MB", *on
    yield "model", str(model)
    yield "model", f"gpt{bad}2"
    yield "estimate", str(model), *small[1:]
    yield "validate", str(table)
    yield "import", f"{MEGATRON} --odd{bad}-flag {bad}", "--model", "gpt2", *TRAINED
    yield "export", "vllm", str(model), "--tp", "1"
    yield (f"com{bad}mand",)
    yield "catalog", f"mo{bad}", "x"


@pytest.mark.parametrize("bad", ["".join(STEERING)], ids=ascii)
def test_no_channel_lets_a_name_steer_the_terminal(bad, tmp_path):
    for argv in channels(tmp_path, bad):
        for ran in (run(*argv), on_terminal(100, *argv)):
            assert ran.code in (0, 2), argv
            assert not HARMFUL.search(ran.out + ran.err), argv
        if argv[0] not in ("export", "catalog") and not HARMFUL.search(argv[0]):
            assert not HARMFUL.search(run(*argv, "--csv").out), argv


def test_json_keeps_a_name_as_it_is(tmp_path):
    for bad in STEERING:
        where = cluster_file(tmp_path, f"n{bad}x")
        ran = run("estimate", "gpt2", "--on", where, "--batch", "2", "--seq", "64", "--json")
        assert not HARMFUL.search(ran.out)
        assert ran.json()["cluster"]["levels"][0]["name"] == f"n{bad}x"


def test_an_answer_and_an_error_are_clean_from_python_too(tmp_path):
    import meshwise as mw

    where = mw.cluster(cluster_file(tmp_path, "n\x1b[2Jx", title="\x1b[31m"))
    shown = mw.estimate(mw.model("gpt2"), where, mw.Training(batch=2, seq=64))
    assert not HARMFUL.search(str(shown) + shown._repr_html_())
    with pytest.raises(mw.MeshwiseError) as caught:
        mw.cluster("\x1b[2J")
    assert not HARMFUL.search(str(caught.value))
