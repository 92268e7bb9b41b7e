"""Limits and rules of an engine: a command that states them is priced as ``serve`` prices its own options."""

import pytest
from tests.cli.running import run
from tests.deep import deep

from meshwise.errors import InputError
from meshwise.launch import parse

LOAD = ("--on", "hgx-h100", "--isl", "1024", "--osl", "64", "--concurrency", "16")
STARTS = {
    "vllm": "vllm serve meta-llama/Llama-3.1-8B -tp 2",
    "sglang": "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp 2",
    "trtllm": "trtllm-serve meta-llama/Llama-3.1-8B --tp_size 2",
}
FILE = "cat > c.yaml <<'X'\n{}\nX\n{} --config c.yaml"
FP8 = ("--dtype", "fp8", "--weight-dtype", "fp8")
# what the command says → what `serve` is asked for
FLAGS = {
    "vllm": {
        "": (),
        "--max-num-seqs 2": ("--max-num-seqs", "2"),
        "--max-model-len 2048": ("--max-model-len", "2048"),
        "--max-num-batched-tokens 512": ("--chunk", "512"),
        "--gpu-memory-utilization 0.25": ("--gpu-memory-utilization", "0.25"),
        "--enforce-eager": ("--enforce-eager",),
        "--no-enforce-eager": (),
        "--no-enable-chunked-prefill": ("--no-enable-chunked-prefill",),
        "--enable-chunked-prefill": (),
        "--kv-cache-dtype fp8": ("--kv-dtype", "fp8"),
        "--quantization fp8": FP8,
    },
    "sglang": {
        "": (),
        "--max-running-requests 2": ("--max-num-seqs", "2"),
        "--context-length 2048": ("--max-model-len", "2048"),
        "--chunked-prefill-size 512": ("--chunk", "512"),
        "--chunked-prefill-size -1": ("--no-enable-chunked-prefill",),
        "--mem-fraction-static 0.3": ("--gpu-memory-utilization", "0.3"),
        "--disable-cuda-graph": ("--enforce-eager",),
        "--enable-mixed-chunk": ("--enable-mixed-chunk",),
        "--kv-cache-dtype fp8_e4m3": ("--kv-dtype", "fp8"),
        "--quantization fp8": FP8,
    },
    "trtllm": {
        "": (),
        "--max_batch_size 2": ("--max-num-seqs", "2"),
        "--max_seq_len 2048": ("--max-model-len", "2048"),
        "--max_num_tokens 2048": ("--chunk", "2048"),
        "--kv_cache_free_gpu_memory_fraction 0.3": ("--gpu-memory-utilization", "0.3"),
        "--enable_chunked_prefill": ("--enable-mixed-chunk",),
        "--kv_cache_dtype fp8": ("--kv-dtype", "fp8"),
    },
}
FILES = {
    "enable_chunked_prefill: true": ("--enable-mixed-chunk",),
    "cuda_graph_config: null": ("--enforce-eager",),
    "kv_cache_config:\n  free_gpu_memory_fraction: 0.3": ("--gpu-memory-utilization", "0.3"),
    "max_batch_size: 2": ("--max-num-seqs", "2"),
}
CASES = [
    *(
        (name, f"{STARTS[name]} {flag}", said)
        for name in FLAGS
        for flag, said in FLAGS[name].items()
    ),
    *(("trtllm", FILE.format(text, STARTS["trtllm"]), said) for text, said in FILES.items()),
]
SAME = ("tpot_s", "ttft_s", "tokens_per_s_per_device", "memory_bytes", "fits")


@pytest.mark.parametrize(("stack", "command", "said"), CASES, ids=lambda v: str(v)[-40:])
def test_a_command_is_priced_as_serve_prices_its_options(stack, command, said):
    read = run("import", command, *LOAD, "--json")
    assert read.code == 0, read.err
    served = run("serve", "llama-3.1-8b", *LOAD, "--tp", "2", "--stack", stack, *said, "--json")
    assert served.code == 0, served.err
    mine, asked = read.json(), served.json()
    assert {k: mine["layout"][k] for k in SAME} == pytest.approx({k: asked[k] for k in SAME})
    assert mine["unpriced"] == []


@pytest.mark.parametrize(
    ("stack", "flag"),
    [
        ("vllm", ""),
        ("vllm", "--max-num-seqs 2"),
        deep("vllm", "--max-num-batched-tokens 512"),
        deep("vllm", "--enforce-eager"),
        deep("vllm", "--quantization fp8"),
        ("sglang", "--enable-mixed-chunk"),
        deep("trtllm", "--max_batch_size 2"),
    ],
)
def test_import_and_a_plan_have_one_figure_for_one_layout(stack, flag):
    command = f"{STARTS[stack]} {flag}"
    read = run("import", command, *LOAD, "--json").json()
    plan = run("plan", "llama-3.1-8b", *LOAD, "--gpus", "2", "--compare", command, "--json").json()
    for row in ("layout", "best"):
        assert {k: plan["compared"][row][k] for k in SAME} == pytest.approx(
            {k: read[row][k] for k in SAME}
        )
    assert plan["compared"]["verdict"] == read["verdict"]
    alike = any("the plan does not" in remark for remark in plan["compared"]["remarks"])
    assert alike == bool(flag)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--max-num-seqs 2", "at most 2 requests of a replica at once"),
        ("--enforce-eager", "no CUDA graphs"),
    ],
)
def test_what_the_commands_own_options_cost_is_one_of_the_changes(flag, words):
    """The layout without them has the figures of the same command without them."""
    bare, limited = (
        run("import", f"{STARTS['vllm']} {more}", *LOAD, "--json").json() for more in ("", flag)
    )
    (found,) = (c for c in limited["changes"] if c["axis"] == "engine_options")
    assert {k: found[k] for k in SAME} == pytest.approx({k: bare["layout"][k] for k in SAME})
    gain = found["tokens_per_s_per_device"] / limited["layout"]["tokens_per_s_per_device"] - 1.0
    assert gain > 0.03
    said = f"ithout the command's engine options ({words}) it serves"
    assert (said in limited["verdict"]) is found["advised"] is not found["tie"]
    assert not found["advised"] or f"{gain:.0%} more" in limited["verdict"]
    assert "engine options" in run("import", f"{STARTS['vllm']} {flag}", *LOAD).out


@pytest.mark.parametrize("flag", ["--max-num-seqs 512", "--enable-chunked-prefill"])
def test_options_that_cost_nothing_are_no_change(flag):
    found = run("import", f"{STARTS['vllm']} {flag}", *LOAD, "--json").json()
    assert all(c["axis"] != "engine_options" for c in found["changes"])
    assert "engine options" not in found["verdict"]


def test_the_best_layout_under_options_that_cost_is_not_called_best_alone():
    command = "vllm serve meta-llama/Llama-3.1-8B -dp 2 --max-num-seqs 2"
    plan = run("plan", "llama-3.1-8b", *LOAD, "--gpus", "2", "--compare", command, "--json").json()
    found = plan["compared"]
    assert {k: found["layout"][k] for k in ("tp", "dp")} == {
        k: found["best"][k] for k in ("tp", "dp")
    }
    assert found["verdict"].startswith("It is the best layout of these GPUs. Without the command's")


def test_what_is_better_is_not_called_less():
    command = f"{STARTS['vllm']} --quantization fp8"
    plan = run("plan", "llama-3.1-8b", *LOAD, "--gpus", "2", "--compare", command, "--json").json()
    mine, best = (plan["compared"][k]["tokens_per_s_per_device"] for k in ("layout", "best"))
    verdict = plan["compared"]["verdict"]
    assert mine <= best or "more than" in verdict
    assert " 0.0% less" not in verdict


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("vllm serve meta-llama/Llama-3.1-70B -tp 2", "runs meta-llama/Llama-3.1-70B"),
        ("vllm serve meta-llama/Llama-3.1-8B -tp 2 --max-model-len 512", "longer than the 512"),
    ],
)
def test_a_plan_refuses_a_command_that_does_not_serve_its_load(command, why):
    ran = run("plan", "llama-3.1-8b", *LOAD, "--gpus", "2", "--compare", command)
    assert ran.code == 2
    assert why in ran.err


@pytest.mark.parametrize(
    "command",
    [
        f"{STARTS['vllm']} --enable-chunked-prefill --no-enable-chunked-prefill",
        f"{STARTS['sglang']} --enable-mixed-chunk --chunked-prefill-size -1",
        FILE.format(
            "enable_chunked_prefill: false", f"{STARTS['trtllm']} --enable_chunked_prefill"
        ),
    ],
)
def test_rules_that_contradict_each_other_are_refused(command):
    ran = run("import", command, *LOAD)
    assert ran.code == 2
    assert ran.err.count("\n") == 1


def test_a_job_says_its_rules_in_its_command():
    from meshwise.launch import parse, write_launch

    for name, flags in (("vllm", "--enforce-eager"), ("sglang", "--disable-cuda-graph")):
        job = parse(f"{STARTS[name]} {flags}").job
        assert job.eager
        assert flags in write_launch(job, name).text
    for name in STARTS:
        job = parse(f"{STARTS['vllm']} --no-enable-chunked-prefill").job
        assert not write_launch(job, name).untranslated.get("chunked_prefill")


@pytest.mark.parametrize(
    "words",
    [
        "--speculative-config.method ngram --speculative-config.num_speculative_tokens 4",
        "--speculative-config.method=ngram --speculative-config '{\"num_speculative_tokens\": 4}'",
    ],
)
def test_keys_by_dots_are_the_flags_json(words):
    said = '--speculative-config \'{"method": "ngram", "num_speculative_tokens": 4}\''
    assert parse(f"vllm serve m -tp 2 {words}").job == parse(f"vllm serve m -tp 2 {said}").job


@pytest.mark.parametrize("said", ["2", "'\"device=0,1\"'", "device=3"])
def test_a_container_with_fewer_gpus_than_its_server_takes(said):
    command = f"docker run --gpus {said} vllm/vllm-openai:latest --model m -tp 4"
    with pytest.raises(InputError) as caught:
        parse(command)
    assert caught.value.field == "--gpus"
    assert parse(command.replace(said, "all", 1)).job.tp == 4
