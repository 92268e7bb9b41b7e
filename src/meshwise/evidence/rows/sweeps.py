"""What public sweeps of serving engines ran with and their rows do not state: lengths, the choice of tokens,
and what their scripts ask of the scheduler."""

from __future__ import annotations

from meshwise.clusters.load import Device
from meshwise.errors import InputError
from meshwise.evidence.tables import Assumed, Row
from meshwise.models.shapes import Model
from meshwise.simulate.iteration import Engine
from meshwise.simulate.rules import Rules, engine_rules
from meshwise.stacks.stack import Stack, replaced
from meshwise.stacks.versions import numbers_of
from meshwise.strict_tables import fraction
from meshwise.workloads.serving import LENGTH_SPREAD, Serving

# Lengths of InferenceMAX's public sweeps, whose client draws them from 0.8 of the longest
# (--random-range-ratio 0.8 of its scripts).
SPREAD_LENGTHS = ((1024, 1024), (1024, 8192), (8192, 1024))
# Of rows of other lengths: equal ones would end in waves for ever, which engines that compute prompts beside
# decodes do not; of 0, 2, 5 and 10 %, tried on samples, vLLM's cells choose 5 or 10.
LITTLE_SPREAD = 0.05
# Of engines that do not cut prompts: of 0, 1, 2 and 5 % the others choose 1 whichever of TensorRT-LLM's cells is
# left out (tools/serving_left_out.py).
WHOLE_SPREAD = 0.01
# Where prompts go first one cell has waves, which 1 % would end, and another has none: of 0, 0.5, 1, 2 and
# 5 % this one has the smallest error over both.
WAVES_SPREAD = 0.005
# That client asks for the likeliest token (temperature 0.0 of its requests: kimbochen/bench_serving,
# backend_request_func.py), which nothing is sorted for: logits are read, widened to fp32 and searched.
GREEDY_LOGIT_BYTES = 10.0


def of_public_sweep(row: Row) -> bool:
    """Whether a row has the lengths of InferenceMAX's sweeps."""
    return bool(row.text("isl") and row.text("osl")) and (
        (row.count("isl"), row.count("osl")) in SPREAD_LENGTHS
    )


def lengths_of(row: Row, stack: Stack) -> tuple[float, tuple[Assumed, ...]]:
    """How far a row's requests differ in length, and what had to be assumed of it: where it does not say as
    public sweeps of such lengths, else a little, and least where prompts go first."""
    if row.text("length_spread"):
        field = f"line {row.line}: length_spread"
        return fraction(row.text("length_spread"), field, low=0.0, high=1.0), ()
    if of_public_sweep(row):
        return LENGTH_SPREAD, (Assumed("length_spread", f"{LENGTH_SPREAD:g}"),)
    spread = WAVES_SPREAD
    if stack.scheduler.mixes_prefill:
        spread = WHOLE_SPREAD if stack.scheduler.whole_prompts else LITTLE_SPREAD
    return spread, (Assumed("length_spread", f"{spread:g}"),)


# Engine, model type and generation of devices whose four-bit experts run on Marlin's kernels, and since which
# version of the engine: VLLM_MXFP4_USE_MARLIN of the scripts for gpt-oss on H100 and H200 since January 2026.
_MARLIN_ASKED = ("vllm", "gpt_oss", "hopper"), (0, 13)


# Whose experts in FP8 with a scale per block do not run on FlashInfer's kernels, which leaves DeepGEMM's, and
# before which version: VLLM_USE_FLASHINFER_MOE_FP8=0 of the script for MiniMax-M2.5 on B200.
_DEEP_GEMM_ASKED = ("vllm", "minimax_m2", "blackwell"), (0, 18)


# Configurations of the public sweep that draft tokens (spec-decoding: mtp of its nvidia-master.yaml) and whose
# columns no other configuration has: engine, version, model type, generation, format, TP, EP.
_DRAFTED = (
    ("sglang", "0.5.9", "qwen3_5_moe", "blackwell", "fp8", 4, 1),
    ("sglang", "0.5.9", "deepseek_v3", "blackwell", "fp8", 8, 1),
)
# Of DeepSeek-R1 the one without drafts has fewer requests in flight than these, prompts long and short.
_DRAFTED_FROM = 8, 128


def _is_drafted(row: Row, model: Model, device: Device, stack: Stack) -> bool:
    """Whether a row's publisher says that it drafted tokens. It is priced without: no column says how many were
    accepted."""
    kind = (stack.software, row.text("engine_version"), model.model_type, device.generation)
    asked = (*kind, row.text("dtype"), row.count("tp", 1), row.count("ep", 1))
    if not of_public_sweep(row) or asked not in _DRAFTED:
        return False
    if model.model_type != "deepseek_v3":
        return True
    return row.count("concurrency") >= _DRAFTED_FROM[row.count("isl") <= row.count("osl")]


def _before(version: str, bound: tuple[int, ...]) -> bool:
    """Whether a row's engine is of a release before another; those of no number are as late as any."""
    try:
        return bool(version) and numbers_of(version, "engine_version") < bound
    except InputError:  # a nightly build, or a branch
        return False


def asked_of(
    row: Row, stack: Stack, model: Model, device: Device
) -> tuple[Stack, tuple[Assumed, ...]]:
    """The stack with the choice of tokens that the row's client asks for and the kernels that its script does,
    and what had to be assumed of it."""
    if not of_public_sweep(row) or stack.ideal:
        return stack, ()
    changes: dict[str, bool | float | tuple[str, ...]] = {}
    assumed: tuple[Assumed, ...] = ()
    if stack.kernels.logit_bytes > GREEDY_LOGIT_BYTES:
        changes["logit_bytes"] = GREEDY_LOGIT_BYTES
        assumed = (Assumed("temperature", "0"),)
    version = row.text("engine_version")
    kind, since = _MARLIN_ASKED
    if (stack.software, model.model_type, device.generation) == kind and (
        not _before(version, since)
    ):
        changes["marlin_experts"] = True
        assumed += (Assumed("experts", "marlin"),)
    kind, before = _DEEP_GEMM_ASKED
    if (stack.software, model.model_type, device.generation) == kind and _before(version, before):
        changes["deep_gemm_experts"] = (device.generation,)
        assumed += (Assumed("experts", "deep_gemm"),)
    if _is_drafted(row, model, device, stack):
        assumed += (Assumed("draft_tokens", "0"),)
    return (replaced(stack, changes) if changes else stack), assumed


# Engine, model type and generation of devices whose servers look for requests every 30 iterations (10 below
# 16 in flight) and take 32,768 tokens of prompts: --scheduler-recv-interval and --chunked-prefill-size of the
# scripts for B200.
_POLLS_SELDOM = (("sglang", "deepseek_v3", "blackwell"), ("sglang", "qwen3_5_moe", "blackwell"))
_POLLED_TOKENS = 32768
# Tokens of an iteration beside the longest prompt and a token of each request: of the script for
# DeepSeek-R1, and of rows that are no public sweep's, whose short prompts share iterations and whose long
# ones do not (recipes of TensorRT-LLM set max_num_tokens to little more than a prompt and the decodes).
_SCRIPT_ROOM = 127
_RECIPE_ROOM = 1500
# max_num_tokens of the scripts for gpt-oss and for Llama.
_GPT_OSS_TOKENS, _LLAMA_TOKENS = 20000, 16384
# batch_wait_timeout_iters and batch_wait_max_tokens_ratio of the latter at 1,024 / 1,024 and fewer than 8 ranks:
# prompts let so many iterations pass until they fill that share of its tokens.
_LLAMA_WAIT, _LLAMA_ENOUGH = 20, 0.9


def rules_asked(engine: Engine, w: Serving, public: bool) -> tuple[Rules, tuple[Assumed, ...]]:
    """The engine's rules as rows of the kind ran them, and what had to be assumed of them. ``public``: of
    a public sweep (:func:`of_public_sweep`)."""
    rules = engine_rules(engine, w)
    stack, model, device = engine.stack, engine.model, engine.cluster.device
    if (stack.software, model.model_type, device.generation) in _POLLS_SELDOM:
        poll = 30 if w.concurrency >= 16 else 10
        rules = rules._replace(poll=poll, budget=max(rules.budget, _POLLED_TOKENS))
        return rules, (
            Assumed("poll_iterations", str(poll)),
            Assumed("max_batched_tokens", str(_POLLED_TOKENS)),
        )
    if rules.policy != "whole" or int(engine.layouts.pp) > 1:
        return rules, ()
    decodes = -(-w.concurrency // int(engine.layouts.dp))
    more: tuple[Assumed, ...] = ()
    if not public:
        tokens = w.isl + decodes + _RECIPE_ROOM
    elif model.model_type == "deepseek_v3":
        tokens = w.isl + decodes + _SCRIPT_ROOM
    elif model.model_type == "gpt_oss":
        tokens = _GPT_OSS_TOKENS
    elif model.model_type == "llama":
        tokens = _LLAMA_TOKENS
        if w.isl == w.osl == 1024 and int(engine.layouts.tp) < 8:
            rules = rules._replace(wait=_LLAMA_WAIT, enough=_LLAMA_ENOUGH * tokens)
            more = (Assumed("batch_wait_timeout_iters", str(_LLAMA_WAIT)),)
    else:
        return rules, ()
    return rules._replace(budget=tokens), (Assumed("max_batched_tokens", str(tokens)), *more)
