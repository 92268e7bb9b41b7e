"""``meshwise serve``: the record, the page, and what is refused."""

import csv
import io
import math
import os

import pytest
from running import answer, refusal, run

BASE = ("serve", "llama-3.1-8b", "--on", "hgx-h100", "--nodes", "1")
LOAD = ("--isl", "1024", "--osl", "256", "--concurrency", "32")
KEYS = {
    "schema", "model", "cluster", "workload", "formats", "stack", "layout", "devices", "tpot_s",
    "tpot_low_s", "tpot_high_s", "ttft_s", "queue_s", "request_s", "tokens_per_s_per_device",
    "tokens_per_s", "requests_per_s", "decode_s", "prefill_s", "tokens_per_iteration", "running",
    "max_concurrency", "memory_bytes", "memory_limit_bytes", "fits", "tight", "evidence", "remarks",
    "points", "itl_s", "averages", "in_flight", "run", "limits", "misses",
    "kv_cache_tokens", "kv_cache_blocks", "max_model_len", "max_model_concurrency", "longest_request",
    "weights_bytes", "activations_bytes", "runtime_bytes", "graphs_bytes", "kv_cache_bytes", "reserve_bytes",
    *(f"{name}_p{p}_s" for name in ("tpot", "itl", "ttft", "request", "queue") for p in (50, 90, 95, 99)),
}  # fmt: skip


def test_the_record():
    d = answer(*BASE, *LOAD, "--tp", "2")
    assert set(d) == KEYS
    assert d["schema"] == 1
    assert d["devices"] == 2
    degrees = {"tp": 2, "pp": 1, "dp": 1, "ep": 1, "etp": 2}
    assert {name: d["layout"][name] for name in degrees} == degrees
    assert d["layout"]["dcp"] == 1
    assert d["workload"] == {
        "phase": "serve",
        "isl": 1024,
        "osl": 256,
        "concurrency": 32,
        "prefix_hit": 0.0,
        "chunk": None,
        "draft_tokens": 0,
        "acceptance": None,
        "draft_cost": "none",
        "expert_imbalance": None,
        "expert_skew": 1.0,
        "length_spread": 0.2,
        "request_rate": None,
        "arrivals": None,
        **dict.fromkeys(("dtype", "weights_dtype", "kv_cache_dtype", "comm_dtype")),
    }
    # answers have 0.9 of the longest in the mean
    assert d["request_s"] == pytest.approx(d["ttft_s"] + 229 * d["tpot_s"], rel=0.02)
    assert d["requests_per_s"] * d["request_s"] == pytest.approx(32, rel=0.05)
    inside = d["in_flight"]["running"]["mean"] + d["in_flight"]["waiting"]["mean"]
    assert inside == pytest.approx(32, rel=0.02)
    assert d["run"]["requests"] == 320
    assert d["run"]["ttft_s"] > d["ttft_s"]
    assert d["averages"]["tpot_s"] == pytest.approx(d["tpot_s"], rel=0.2)
    assert d["tpot_low_s"] < d["tpot_s"] < d["tpot_high_s"]
    assert d["decode_s"] < d["tpot_s"]
    assert d["fits"] is True
    assert d["running"] == 32 < d["max_concurrency"]
    assert d["points"][0]["tpot_s"] == d["tpot_s"]


def test_the_page():
    asked = (*BASE, *LOAD, "--draft-tokens", "3", "--acceptance", "0.7", "--prefix-hit", "0.5")
    ran = run(*asked)
    assert ran.code == 0
    assert "requests that fit" in run(*asked, "--detail").out
    assert "50% of a prompt cached, 3 drafts at 70%" in " ".join(ran.out.split())
    for words in ("TPOT", "TTFT", "tokens/s per GPU", "tokens per verif"):
        assert words in ran.out
    answer, *page, more, _, further = ran.out.splitlines()
    assert "requests" in answer and "--detail" in more and "meshwise plan" in further
    assert max(map(len, page)) <= 80


def test_a_cache_that_is_too_small_is_said():
    argv = ("--isl", "8192", "--osl", "512", "--concurrency", "256")
    d = answer(*BASE, *argv)
    assert d["fits"] is False
    assert d["running"] == d["max_concurrency"] < 256
    assert d["in_flight"]["running"]["mean"] < 256
    assert d["queue_s"] > 0
    ran = run(*BASE, *argv)
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert f"does not hold 256 requests: {d['max_concurrency']} fit" in text


def test_arrivals_that_fill_the_cache_are_told_by_what_runs_and_waits():
    """Nobody asked for a number in flight: the words are of what arrives, and how near the most it is."""
    base = ("serve", "llama-3.1-70b", "--on", "hgx-h100", "--tp", "2", "--pp", "2")
    argv = (*base, "--isl", "2048", "--osl", "512", "--requests", "1000", "--request-rate", "4")
    d, ran = answer(*argv), run(*argv)
    text = " ".join(ran.out.split())
    assert "4,096" not in text
    assert "4096 requests" not in text
    assert d["fits"] is False
    running = math.ceil(d["in_flight"]["running"]["mean"])
    assert f"KV cache full: {running} requests run" in text
    assert f"holds {d['max_concurrency']} of the longest" in text
    assert "requests/s arrive of at most" in text


def test_a_run_without_a_steady_state_says_what_ended_while_it_ran():
    """One request: its tokens in its own time, not the rate at which others would come."""
    d = answer(*BASE, "--isl", "1024", "--osl", "128", "--request-rate", "40", "--requests", "1")
    assert d["requests_per_s"] == pytest.approx(1.0 / d["request_s"], rel=0.05)
    assert d["tokens_per_s"] < 128 / d["request_s"] * 1.3


def test_what_does_not_fit_is_refused():
    big = run("serve", "llama-3.1-405b", "--on", "hgx-h100", *LOAD)
    assert (big.code, big.out) == (3, "")
    assert len(big.err.splitlines()) == 1
    assert "leave no room for a KV cache; legal: TP 16 holds it" in big.err
    argv = ("serve", "qwen3-32b", "--on", "hgx-h100", "--osl", "256", "--concurrency", "8")
    long = run(*argv, "--isl", "40000", "--json")
    assert (long.code, long.err) == (3, "")
    error = long.json()["error"]
    assert (error["field"], error["value"]) == ("--isl", 40_000)
    longest = error["nearest"]
    held = answer(*argv, "--isl", str(longest))
    assert held["longest_request"] == longest + 256
    assert held["max_model_concurrency"] < 1.0  # of the model's own 40,960 tokens
    # an engine is told of no more than fits
    told = run(*argv, "--isl", "1k", "--max-model-len", "40k", "--json")
    assert told.code == 3
    assert told.json()["error"]["field"] == "--max-model-len"
    told = answer(*argv, "--isl", "1k", "--max-model-len", "16k")
    assert told["max_model_len"] == 16_384
    # a larger share, a smaller iteration and a narrower cache hold it
    more = ("--gpu-memory-utilization", "0.97")
    assert answer(*argv, "--isl", "40000", *more)["fits"] is False  # one of eight
    narrow = ("--kv-cache-dtype", "fp8", "--max-num-batched-tokens", "2k", *more)
    both = answer(*argv, "--isl", "40000", *narrow)
    assert both["max_concurrency"] >= 2
    # a curve of loads too
    curve = ("--isl", "40000", "--sweep", "request-rate=1:2")
    assert run(*argv[:-2], *curve).code == 3


def test_csv_has_a_row():
    rows = list(csv.DictReader(io.StringIO(run(*BASE, *LOAD, "--csv").out)))
    assert len(rows) == 1
    assert float(rows[0]["tpot_s"]) == answer(*BASE, *LOAD)["tpot_s"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("--tp", "4"), ("--tensor-parallel-size", "4")),
        (("--dp", "2"), ("--data-parallel-size", "2")),
        (("--chunk", "512"), ("--max-num-batched-tokens", "512")),
        (("--chunk", "512"), ("--chunked-prefill-size", "512")),
        (("--kv-dtype", "fp8"), ("--kv-cache-dtype", "fp8")),
        (
            ("--draft-tokens", "2", "--acceptance", ".5"),
            ("--num-speculative-tokens", "2", "--acceptance", ".5"),
        ),
    ],
)
def test_options_have_the_engines_names(ours, theirs):
    assert answer(*BASE, *LOAD, *ours) == answer(*BASE, *LOAD, *theirs)


def test_every_option_changes_the_answer():
    base = answer(*BASE, *LOAD)["tpot_s"]
    for extra in (
        ("--prefix-hit", "0.5"),
        ("--chunk", "256"),
        ("--draft-tokens", "3", "--acceptance", "0.7"),
        ("--dtype", "fp8"),
        ("--kv-dtype", "fp8"),
        ("--tp", "2"),
        ("--stack", "sglang"),
        ("--stack", "trtllm"),
        ("--ideal",),
        ("--weight-dtype", "int4"),
    ):
        assert answer(*BASE, *LOAD, *extra)["tpot_s"] != base, extra
    moe = ("serve", "qwen3-30b-a3b", "--on", "hgx-h100", *LOAD, "--tp", "4", "--ep", "4")
    hot = answer(*moe, "--expert-imbalance", "2")
    assert hot["tpot_s"] > answer(*moe)["tpot_s"]


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (("--isl", "0"), "--isl"),
        (("--isl", "x"), "--isl"),
        (("--osl", "-3"), "--osl"),
        (("--osl", "1.5"), "--osl"),
        (("--concurrency", "0"), "--concurrency"),
        (("--concurrency", "nan"), "--concurrency"),
        (("--concurrency", "9" * 30), "--concurrency"),
        (("--prefix-hit", "1.1"), "--prefix-hit"),
        (("--prefix-hit", "half"), "--prefix-hit"),
        (("--prefix-hit", "nan"), "--prefix-hit"),
        (("--chunk", "0"), "--chunk"),
        (("--draft-tokens", "-1"), "--draft-tokens"),
        (("--draft-tokens", "64", "--acceptance", "0.5"), "--draft-tokens"),
        (("--draft-tokens", "3"), "--acceptance"),
        (("--draft-tokens", "3", "--acceptance", "1.5"), "--acceptance"),
        (("--draft-tokens", "3", "--acceptance", "70%"), "--acceptance"),
        (("--acceptance", "0.5"), "--acceptance"),
        (("--draft-cost", "layer"), "--draft-cost"),
        (("--draft-tokens", "3", "--acceptance", "1", "--draft-cost", "eagle"), "--draft-cost"),
        (("--expert-imbalance", "0.5"), "--expert-imbalance"),
        (("--expert-imbalance", "inf"), "--expert-imbalance"),
        (("--dtype", "fp7"), "--dtype"),
        (("--kv-dtype", "int2"), "--kv-dtype"),
        (("--stack", "vlm"), "--stack"),
        (("--tp", "3"), "--tp"),
        (("--dp", "1000"), "--dp"),
        (("--ep", "2"), "--ep"),
        (("--gpus", "3"), "--gpus"),
        (("--cp", "2"), "--cp"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(extra, field):
    given = dict(zip(LOAD[::2], LOAD[1::2], strict=True))
    for option in extra[::2]:
        given.pop(option, None)
    rest = [part for pair in given.items() for part in pair]
    assert refusal(*BASE, *rest, *extra)["field"] == field


@pytest.mark.parametrize("missing", ["--isl", "--osl", "--concurrency"])
def test_what_is_missing_is_asked_for(missing):
    at = LOAD.index(missing)
    error = refusal(*BASE, *LOAD[:at], *LOAD[at + 2 :])
    assert error["field"] == missing
    assert "for example" in error["legal"]


def test_a_load_that_is_not_said_may_be_any_of_those_there_are():
    """Requests in flight, a rate, a trace; of a plan limits too."""
    lengths = ("--isl", "256", "--osl", "16")
    served = refusal(*BASE, *lengths)["legal"]
    planned = refusal("plan", *BASE[1:4], *lengths)["legal"]
    for said in ("--concurrency", "--request-rate"):
        assert said in served and said in planned
    assert "--arrivals" in served and "--tpot" in planned


RATE = ("--isl", "1024", "--osl", "256")


def test_arrivals_in_place_of_a_fixed_number_in_flight():
    asked = (*BASE, *RATE, "--request-rate", "5", "--requests", "300")
    d = answer(*asked)
    assert d["workload"]["request_rate"] == 5.0
    assert d["workload"]["arrivals"] == "poisson"
    assert d["requests_per_s"] == pytest.approx(5.0, rel=0.2)
    assert d["running"] >= d["in_flight"]["running"]["mean"]
    assert d["run"]["requests"] == 300
    assert answer(*asked) == d
    assert answer(*asked, "--seed", "1")["ttft_s"] != d["ttft_s"]
    bursts = answer(*asked, "--arrivals", "gamma:0.1")
    assert bursts["workload"]["arrivals"] == "gamma:0.1"
    assert bursts["ttft_p99_s"] > d["ttft_p99_s"]


def test_the_page_says_which_of_the_two_a_figure_is():
    ran = run(*BASE, *LOAD)
    assert "Steady state" in ran.out
    assert "Mean over 320 requests, all started at once" in ran.out
    assert "p99" in run(*BASE, *LOAD, "--detail").out
    assert "5 requests/s (poisson)" in run(*BASE, *RATE, "--request-rate", "5").out


def test_a_name_keeps_its_spelling_where_a_remark_begins_with_it():
    page = run(*BASE, *LOAD, "--stack", "vllm@99").out
    assert "vLLM 99: a later version than" in page
    curve = run("scale", *BASE[1:], "--phase", "decode", "--batch", "8", "--context", "64",
                "--stack", "vllm@99").out  # fmt: skip
    assert "vLLM 99: a later version" in " ".join(curve.split())


@pytest.mark.parametrize("requests", ["16", "32", "33", "64"])
def test_a_run_of_too_few_requests_has_no_steady_state(requests):
    """No more requests than a first round and a last: the figures are of all of them, and it is said."""
    few = (*BASE, "--isl", "512", "--osl", "32", "--concurrency", "32", "--requests", requests)
    d, ran = answer(*few), run(*few)
    assert (d["ttft_s"], d["tokens_per_s"]) == (d["run"]["ttft_s"], d["run"]["tokens_per_s"])
    assert sum("no steady state is reached" in remark for remark in d["remarks"]) == 1
    assert "\nSteady state" not in ran.out
    assert "no steady state" in ran.out.splitlines()[0]
    plan = ("plan", *BASE[1:], "--gpus", "1", *few[len(BASE) :])
    assert any("no steady state is reached" in remark for remark in answer(*plan)["remarks"])


def test_a_run_of_a_few_rounds_has_one():
    few = (*BASE, "--isl", "512", "--osl", "32", "--concurrency", "32", "--requests", "96")
    d, usual = answer(*few), answer(*few[:-2])
    assert d["ttft_s"] < d["run"]["ttft_s"]
    assert d["tokens_per_s"] == pytest.approx(usual["tokens_per_s"], rel=0.3)
    for found in (d, usual):
        assert not any("no steady state" in remark for remark in found["remarks"])


def test_arrivals_that_are_over_before_a_steady_state_say_so(tmp_path):
    trace = tmp_path / "burst.csv"
    trace.write_text("".join("0,512,32\n" for _ in range(8)))
    found = answer(*BASE, "--arrivals", str(trace))["remarks"]
    assert any("no steady state is reached" in remark for remark in found)


def test_a_cap_at_the_client_is_named():
    rate = (*RATE, "--request-rate", "3", "--requests", "100")
    capped = (*BASE, *rate, "--concurrency", "8")
    assert "at most 8 in flight (others wait at the client)" in run(*capped).out.replace("\n", " ")
    assert "in flight" not in run(*BASE, *rate).out.split("layout")[0]
    plan = ("plan", *BASE[1:], "--gpus", "1", *capped[len(BASE) :])
    assert "at most 8 in flight (others wait at the client)" in run(*plan).out
    # where the cap is why more come than leave, a larger one is named: it does serve them
    fast = (*BASE, *RATE, "--request-rate", "10", "--requests", "300")
    error = run(*fast, "--concurrency", "8", "--json").json()["error"]
    assert "at most 8 in flight" in error["message"]
    assert "--concurrency above 8" in error["legal"]
    assert answer(*fast, "--concurrency", "64")["fits"]
    assert "--concurrency" not in run(*BASE, *RATE, "--request-rate", "500").err
    # two pools have no such cap, and refuse one
    error = refusal(*fast, "--concurrency", "8", "--prefill-instances", "1")
    assert error["field"] == "--concurrency"


def test_what_is_no_file_of_arrivals_is_called_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, what in (
        (str(tmp_path), "a folder, not a file"),
        (os.devnull, "a device or a pipe, not a file"),
        (str(pipe), "a device or a pipe, not a file"),
        (str(tmp_path / "none.csv"), "no such file"),
    ):
        for more in ((), ("--isl", "8")):
            error = refusal(*BASE, "--arrivals", path, *more)
            assert error["field"] == "--arrivals"
            assert what in error["message"]


@pytest.mark.parametrize(
    ("said", "field", "nearest"),
    [
        (("--tp", "8", "--prefill-instances", "2"), "--prefill-instances", None),
        (("--tp", "8", "--decode-instances", "2"), "--decode-instances", None),
        (("--tp", "1", "--prefill-instances", "9"), "--prefill-instances", 7),
        (("--tp", "2", "--decode-instances", "4", "--prefill-tp", "1"), "--decode-instances", 3),
        (("--tp", "8", "--prefill-tp", "4"), "--tp", None),
        (("--tp", "4", "--dp", "2", "--prefill-dp", "2"), "--tp", None),
        (("--tp", "1", "--prefill-instances", "1", "--prefill-tp", "8"), "--prefill-tp", None),
        (("--tp", "4", "--prefill-dp", "3"), "--prefill-dp", None),
    ],
)
def test_pools_that_are_too_large_are_refused_by_what_was_typed(said, field, nearest):
    error = refusal(*BASE, "--isl", "512", "--osl", "32", "--concurrency", "8", *said)
    assert error["field"] == field
    assert field in said
    assert str(error["value"]) == said[said.index(field) + 1]
    assert error["nearest"] == nearest
    if nearest is not None:
        at = said.index(field) + 1
        fitting = (*said[:at], str(nearest), *said[at + 1 :])
        answer(*BASE, "--isl", "512", "--osl", "32", "--concurrency", "8", *fitting)


def test_a_trace_says_its_own_lengths(tmp_path):
    trace = tmp_path / "calls.csv"
    rows = "".join(f"{i / 4},{500 + i},60\n" for i in range(80))
    trace.write_text("arrival,input,output\n" + rows)
    d = answer(*BASE, "--arrivals", str(trace))
    assert d["run"]["requests"] == 80
    assert d["workload"]["arrivals"] == "calls.csv"
    some = answer(*BASE, "--arrivals", str(trace), "--requests", "40")
    assert some["run"]["requests"] == 40
    assert any("first 40" in remark for remark in some["remarks"])
    # what has no effect on a trace is refused: more requests than it has, a seed where nothing is drawn
    plan = ("plan", *BASE[1:], "--gpus", "1", "--arrivals", str(trace), "--ttft", "9s")
    for command in ((*BASE, "--arrivals", str(trace)), plan):
        for option, value in (("--requests", "81"), ("--seed", "3")):
            error = refusal(*command, option, value)
            assert (error["field"], error["value"]) == (option, int(value))
    drafted = (*BASE, "--arrivals", str(trace), "--draft-tokens", "2", "--acceptance", "0.5")
    assert answer(*drafted, "--seed", "1")["tpot_s"] != answer(*drafted, "--seed", "2")["tpot_s"]
    trace.write_text("1,10,10\n0.5,10,10\n")
    error = refusal(*BASE, "--arrivals", str(trace))
    assert error["field"] == "--arrivals"
    assert "line 2" in error["message"]


def test_more_than_can_be_served_has_an_exit_code_of_its_own():
    ran = run(*BASE, *RATE, "--request-rate", "500")
    assert ran.code == 3
    assert "the queue grows without bound" in ran.err
    assert len(ran.err.splitlines()) == 1
    error = run(*BASE, *RATE, "--request-rate", "500", "--json").json()["error"]
    assert error["field"] == "--request-rate"
    assert answer(*BASE, *RATE, "--request-rate", str(error["nearest"]))["fits"]


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (("--request-rate", "0"), "--request-rate"),
        (("--request-rate", "-2"), "--request-rate"),
        (("--request-rate", "fast"), "--request-rate"),
        (("--request-rate", "nan"), "--request-rate"),
        (("--request-rate", "5", "--arrivals", "gamma:0"), "--arrivals"),
        (("--request-rate", "5", "--arrivals", "gamma"), "--arrivals"),
        (("--request-rate", "5", "--requests", "0"), "--requests"),
        (("--request-rate", "5", "--requests", "9999999"), "--requests"),
        (("--request-rate", "5", "--seed", "x"), "--seed"),
        (("--arrivals", "none.csv"), "--arrivals"),
        (("--concurrency", "4", "--arrivals", "gamma:2"), "--arrivals"),
        (("--concurrency", "4", "--length-spread", "2"), "--length-spread"),
    ],
    ids=" ".join,
)
def test_bad_arrivals_are_one_line(extra, field):
    assert refusal(*BASE, *RATE, *extra)["field"] == field


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_spread_of_lengths_counts_on_every_engine(stack):
    asked = (*BASE, *LOAD, "--stack", stack, "--length-spread")
    assert answer(*asked, "0")["ttft_s"] != answer(*asked, "0.2")["ttft_s"]


def test_latency_against_load():
    d = answer(*BASE, *RATE, "--sweep", "request-rate=1:60", "--requests", "200")
    points = d["points"]
    assert [p["request_rate"] for p in points][:: len(points) - 1] == pytest.approx([1, 60])
    assert len(points) == 12
    served = [p for p in points if not p["saturated"]]
    assert 3 < len(served) < 12
    assert all(p["request_rate"] > served[-1]["request_rate"] for p in points if p["saturated"])
    assert served[-1]["request_rate"] < d["most_requests_per_s"]
    assert served[-1]["tpot_s"] > 1.2 * served[0]["tpot_s"]
    assert served[-1]["ttft_p95_s"] > served[0]["ttft_p95_s"]
    rows = list(csv.DictReader(io.StringIO(
        run(*BASE, *RATE, "--sweep", "request-rate=1:60", "--requests", "200", "--csv").out
    )))  # fmt: skip
    assert len(rows) == 12
    page = run(*BASE, *RATE, "--sweep", "request-rate=1:60", "--requests", "200").out
    assert "Serves up to" in page
    assert max(map(len, page.splitlines()[1:-1])) <= 80
    lines = page.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("requests/s")) + 1
    for line, point in zip(lines[first:], served, strict=False):
        *_, running, tokens = line.replace(",", "").split()
        assert float(tokens) == pytest.approx(point["tokens_per_s_per_device"], rel=0.01)
        assert int(running) == round(point["running"])


@pytest.mark.parametrize(
    "extra",
    [
        ("--sweep", "request-rate"),
        ("--sweep", "isl=1:2"),
        ("--sweep", "request-rate=5:1"),
        ("--sweep", "request-rate=0:5"),
        ("--sweep", "request-rate=1:x"),
        ("--sweep", "request-rate=1:2", "--request-rate", "5"),
        ("--sweep", "request-rate=1:2", "--concurrency", "5"),
        ("--sweep", "request-rate=1:2", "--arrivals", "gamma:0"),
    ],
    ids=" ".join,
)
def test_a_sweep_of_no_rates_is_refused(extra):
    refusal(*BASE, *RATE, *extra)


def test_a_rate_of_a_sweep_is_judged_as_it_is_alone():
    few = ("--requests", "150")
    most = answer(*BASE, *RATE, "--sweep", "request-rate=1:2", *few)["most_requests_per_s"]
    ends = f"request-rate={0.97 * most:.4g}:{1.6 * most:.4g}"
    points = answer(*BASE, *RATE, "--sweep", ends, *few)["points"]
    for p in (points[0], points[2], points[-1]):
        alone = run(*BASE, *RATE, "--request-rate", repr(p["request_rate"]), *few, "--json")
        assert alone.code == (3 if p["saturated"] else 0)


def test_a_sweep_of_which_nothing_is_served_has_the_exit_code_of_one_such_rate():
    asked = (*BASE, *RATE, "--sweep", "request-rate=500:600", "--requests", "400")
    found = run(*asked)
    assert found.code == 3
    assert "more requests arrive than are served" in " ".join(found.out.split())
    assert max(map(len, found.out.splitlines())) <= 80


ONE = (*BASE, "--isl", "1024", "--osl", "1")


def test_answers_of_one_token_have_no_time_per_token():
    page = run(*ONE, "--concurrency", "4").out
    assert page.startswith("no TPOT")
    assert " 0 ns" not in page
    for load in (("--concurrency", "4"), ("--sweep", "request-rate=1:2"), ("--request-rate", "2")):
        assert refusal(*ONE, *load, "--tpot", "p50=1ms")["field"] == "--tpot"


def test_what_is_no_way_of_arriving_is_said_before_what_else_is_wrong():
    error = refusal(*BASE, "--isl", "1k", "--osl", "64", "--arrivals", "uniform")
    assert error["field"] == "--arrivals"
    assert "poisson" in error["message"]


def test_a_sweep_of_a_trace_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("0,100,10\n1,100,10\n")
    error = refusal(*BASE, "--arrivals", str(path), "--sweep", "request-rate=1:2")
    assert error["field"] == "--arrivals"
    assert "file" not in error["legal"]
