"""Engine options of ``serve`` and ``plan`` by their own names, two pools, and experts that replicas share."""

import pytest
from running import answer, refusal, run

WHERE = ("--on", "hgx-h200", "--nodes", "1")
LOAD = ("--isl", "1024", "--osl", "128", "--concurrency", "32")
# dense, experts, latent attention, linear layers, a quantised checkpoint
MODELS = {
    "llama-3.1-8b": (),
    "qwen3-30b-a3b": ("--dp", "8", "--ep", "8"),
    "deepseek-v3": ("--dp", "8", "--ep", "8"),
    "qwen3-next-80b-a3b": ("--tp", "4"),
    "Qwen/Qwen2.5-14B-Instruct-AWQ": (),
}


def serve(model, *options):
    return answer("serve", model, *WHERE, *LOAD, "--requests", "96", *MODELS[model], *options)


@pytest.mark.parametrize("model", MODELS)
def test_no_more_run_than_the_engine_takes(model):
    """Of requests in flight the others wait, and Little's law counts them all."""
    for name in ("--max-num-seqs", "--max-running-requests", "--max-batch-size"):
        d = serve(model, name, "2")
        # an end is seen an iteration late
        assert d["in_flight"]["running"]["mean"] <= 2.0 * 1.1
        assert d["workload"]["max_num_seqs"] == 2
    assert serve(model, "--max-num-seqs", "2")["tpot_s"] < serve(model)["tpot_s"]


@pytest.mark.parametrize("model", MODELS)
def test_without_graphs_the_host_launches_every_layer(model):
    graphs, eager = serve(model), serve(model, "--enforce-eager")
    assert eager["workload"]["enforce_eager"] is True
    assert eager["decode_s"] >= graphs["decode_s"]
    layers = {"llama-3.1-8b": 32, "qwen3-30b-a3b": 48, "deepseek-v3": 61}.get(model, 48)
    assert eager["decode_s"] >= layers * 0.58e-3
    assert serve(model, "--disable-cuda-graph")["decode_s"] == eager["decode_s"]


def test_prompts_are_cut_beside_decodes_whole_or_go_first():
    base = ("serve", "llama-3.1-8b", *WHERE, "--isl", "8192", "--osl", "128", "--concurrency", "16")
    gaps = {
        how: answer(*base, "--stack", stack, *flags)["itl_p99_s"]
        for how, stack, flags in (
            ("cut", "vllm", ("--chunk", "512")),
            ("whole", "vllm", ("--no-enable-chunked-prefill",)),
            ("first", "sglang", ()),
            ("mixed", "sglang", ("--enable-mixed-chunk", "--chunk", "512")),
        )
    }
    assert gaps["cut"] < gaps["whole"]
    assert gaps["mixed"] < gaps["first"]


def test_a_plan_has_the_same_limits():
    base = ("plan", "llama-3.1-8b", *WHERE, "--isl", "1024", "--osl", "128")
    asked = (*base, "--ttft", "2s", "--tpot", "50ms")
    few = answer(*asked, "--max-num-seqs", "4")["best"]
    assert few["tokens_per_s"] < answer(*asked)["best"]["tokens_per_s"]
    eager = answer(*base, "--concurrency", "8", "--tp", "1", "--gpus", "1", "--enforce-eager")
    assert eager["best"]["tpot_s"] >= 32 * 0.58e-3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (("--max-num-seqs", "0"), "--max-num-seqs"),
        (("--max-num-seqs", "many"), "--max-num-seqs"),
        (("--enforce-eager", "--ideal"), "--enforce-eager"),
        (("--enable-mixed-chunk", "--no-enable-chunked-prefill"), "--enable-mixed-chunk"),
        (("--prefill-tp", "3"), "--prefill-tp"),
        (("--prefill-instances", "0"), "--prefill-instances"),
        (("--decode-instances", "-1"), "--decode-instances"),
        (("--decode-instances", "8"), "--decode-instances"),
        (("--prefill-tp", "2", "--gpus", "9"), "--gpus"),
    ],
)
def test_what_cannot_be_is_refused(options, field):
    error = refusal("serve", "llama-3.1-8b", *WHERE, *LOAD, *options)
    assert error["field"] == field


def test_training_has_none_of_them():
    base = ("plan", "llama-3.1-8b", *WHERE, "--global-batch", "64", "--seq", "4096")
    for options in (("--enforce-eager",), ("--max-num-seqs", "4"), ("--enable-mixed-chunk",)):
        assert refusal(*base, *options)["field"] == options[0]


def test_a_sweep_is_of_one_layout():
    base = ("serve", "llama-3.1-8b", *WHERE, "--isl", "1024", "--osl", "128")
    error = refusal(*base, "--sweep", "request-rate=1:4", "--prefill-tp", "2")
    assert error["field"] == "--prefill-tp"


@pytest.mark.parametrize(
    "model", ["llama-3.1-8b", "qwen3-30b-a3b", "Qwen/Qwen2.5-14B-Instruct-AWQ"]
)
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_two_pools_answer(model, stack):
    if stack == "trtllm" and "AWQ" in model:
        pytest.skip("this stack's checkpoints are others")
    pools = ("--prefill-instances", "2", "--prefill-tp", "2", "--decode-instances", "2")
    where = (*WHERE, "--stack", stack, "--requests", "96")
    d = answer("serve", model, *where, *LOAD, "--tp", "2", *pools, "--gpus", "8")
    assert d["devices"] == 8
    apart = d["disaggregated"]
    assert (apart["prefill_instances"], apart["decode_instances"]) == (2, 2)
    assert 0.0 < apart["transfer_s"] <= apart["moved_s"] * 1.3
    assert d["tokens_per_s_per_device"] == pytest.approx(d["tokens_per_s"] / 8)
    assert d["points"][0]["devices"] == 8
    page = run("serve", model, *where, *LOAD, "--tp", "2", *pools)
    assert page.code == 0
    assert "2 × prefill" in page.out


def test_experts_that_replicas_share_are_passed_through_together():
    d = serve("qwen3-30b-a3b")
    assert d["run"]["lock_step"] == 8
    assert d["in_flight"]["running"]["mean"] <= 32 / 8 + 1e-9
    assert serve("llama-3.1-8b")["run"]["lock_step"] is None
