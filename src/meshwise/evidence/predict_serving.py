"""One row of a serving table → the same latency predicted, or the reason why not."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshwise.clusters.load import Device
from meshwise.cost.doubt.question import step_question
from meshwise.dtypes import (
    ELEMENT_BYTES,
    KV_CACHE,
    WEIGHT,
    canonical_dtype,
    known,
    operands_of,
    peak_dtype,
)
from meshwise.errors import InputError
from meshwise.evidence import hardware
from meshwise.evidence.prediction import (
    Prediction,
    Suspect,
    Unsupported,
    model_of,
    source_of,
)
from meshwise.evidence.rows.suspect import check_decode
from meshwise.evidence.rows.sweeps import (
    asked_of,
    lengths_of,
    of_public_sweep,
    rules_asked,
)
from meshwise.evidence.software import RowSoftware, software_of
from meshwise.evidence.tables import MEASURED, Assumed, Row
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.formats import model_as_run, quantised
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.shapes import Model, Stored
from meshwise.search.serving import steady_state as serving
from meshwise.simulate.iteration import Engine
from meshwise.simulate.rules import sequences_at_most
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Decode, Formats


class ServedRow(NamedTuple):
    """What a row ran: an engine on its layout, and what had to be assumed."""

    engine: Engine
    tp: int
    software: RowSoftware
    assumed: tuple[Assumed, ...]


# Columns that say how many requests a row is of, and what was measured: within a sweep no other differs.
_OF_A_ROW = frozenset(("id", "concurrency", "fits", "note")) | frozenset(MEASURED["serving"])
_SWEEPS = 16  # whose engines are kept: rows of a few may alternate
_known: dict[frozenset[tuple[str, str]], tuple[Path, Stack | None, ServedRow]] = {}


def _swept_row(row: Row, folder: Path, named: Stack | None) -> ServedRow:
    """:func:`served_row`, the same one for all rows of a sweep of requests in flight: its engine's prices are
    found once."""
    key = frozenset((c, v) for c, v in row.cells.items() if v and c not in _OF_A_ROW)
    known = _known.pop(key, None)
    if known is None or known[0] != folder or known[1] is not named:
        known = folder, named, served_row(row, folder, named)
    _known[key] = known  # the latest last
    if len(_known) > _SWEEPS:
        del _known[next(iter(_known))]
    return known[2]


def served_row(row: Row, folder: Path, named: Stack | None = None) -> ServedRow:
    """Hardware, software, formats and layout of a row."""
    model = model_of(row, folder)
    devices = row.count("devices")
    tp, pp, dp = row.count("tp", 1), row.count("pp", 1), row.count("dp", 1)
    unsaid: tuple[Assumed, ...] = ()
    if not row.text("dp") and devices % (tp * pp) == 0 and devices > tp * pp:
        dp = devices // (tp * pp)
        unsaid = (Assumed("dp", str(dp)),)
    if tp * pp * dp != devices:
        raise row.wrong("devices", f"tp·pp·dp = {tp * pp * dp}, not {devices}", f"{tp * pp * dp}")
    per_node, node = hardware.node_devices(row, devices)
    cluster, lacking = hardware.cluster_of(row, devices, per_node, None)
    engine_name, version = row.text("engine"), row.text("engine_version")
    name = f"{engine_name}-{version}" if engine_name and version else engine_name
    software = software_of(row, name, "decode", named)
    formats, assumed = row_formats(row, software.stack, model, cluster.device)
    formats, model, published = nvfp4_checkpoint(row, formats, model)
    assumed += published
    model, blocks = checkpoint_of(row, model)
    model = model_as_run(model, Decode(batch=1, context=1, formats=formats))
    assumed += (*blocks, *unsaid, *software.assumed, *node, *lacking)
    etp = row.count("etp") if row.text("etp") else None
    layouts = arrays(Layout(tp=tp, pp=pp, ep=row.count("ep", 1), dp=dp, etp=etp))
    stack, choice = asked_of(row, software.stack, model, cluster.device)
    engine = Engine(model, cluster, stack, layouts, formats)
    return ServedRow(engine, tp, software, (*assumed, *choice))


def serving_predictions(row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """TPOT, TTFT and throughput of a service, or a static batch's whole latency."""
    ran = _swept_row(row, folder, named)
    engine, _, software, assumed = ran
    model, cluster, stack, layouts = engine.model, engine.cluster, engine.stack, engine.layouts
    formats, pp = engine.formats, int(layouts.pp)
    isl, osl = row.count("isl"), row.count("osl")
    # what the row measures: a static batch's whole latency,
    name, source = row.text("id"), source_of(row)
    if row.text("fits") == "false":
        raise Unsupported("the row says that it does not fit")
    if row.text("total_latency_ms"):
        total = serving.static_batch_s(
            model,
            cluster,
            stack,
            layouts,
            isl=isl,
            osl=osl,
            batch=row.count("concurrency", 1),
            formats=formats,
        )
        measured = row.number("total_latency_ms") * 1e-3
        batch = np.int64(serving.local_batch(row.count("concurrency", 1), 1, pp))
        asked = step_question(engine.decode(batch, isl + osl // 2), software.stood_in, ran=True)
        return [
            Prediction(name, "total_latency_s", measured, total, source, assumed, question=asked)
        ]
    # or a service: at its concurrency, or all of its requests at once
    if row.text("concurrency"):
        return _service(row, ran)
    if row.text("tokens_per_s_per_device"):
        return _offline(row, ran)
    raise Unsupported("the row does not state its concurrency")


# Columns that rows have in common of which one's TP degree is twice the other's.
_ALIKE = (
    *("model", "device", "engine", "engine_version", "dtype", "moe_dtype", "kv_dtype"),
    *("isl", "osl", "concurrency", "dp", "pp"),
)
# TTFT beyond is a queue of requests whose limits the row does not state.
LONGEST_TTFT_S = 2.0
OFFLINE_REQUESTS = 1000  # of a run that does not say: num_prompts of vLLM's benchmark client


def _service(row: Row, ran: ServedRow) -> list[Prediction]:
    """Means over the requests of a benchmark at a fixed concurrency, which begin all at once."""
    engine, stack, layouts = ran.engine, ran.engine.stack, ran.engine.layouts
    columns = [c for c in ("tpot_ms", "ttft_ms", "tokens_per_s_per_device") if row.text(c)]
    measured = {
        MEASURED["serving"][c][0]: row.number(c) * MEASURED["serving"][c][1] for c in columns
    }
    if measured.get("ttft_s", 0.0) >= LONGEST_TTFT_S:
        del measured["ttft_s"]
    if not measured:
        return []
    if "tpot_s" in measured:
        check_format(row, engine, measured["tpot_s"])
    spread, unstated = lengths_of(row, stack)
    w = Serving(
        isl=row.count("isl"),
        osl=row.count("osl"),
        concurrency=row.count("concurrency"),
        formats=engine.formats,
        length_spread=spread,
    )
    if "tpot_s" in measured:
        each = -(-w.concurrency // int(layouts.dp))
        held = max(int(w.context * (1.0 - spread)), 1)
        check_decode(measured["tpot_s"], engine.decode(np.int64(each), held), w.concurrency)
    rules, launched = rules_asked(engine, w, of_public_sweep(row))
    if rules.capacity == np.inf:  # it ran: memory that holds not one request is wrong
        rules = rules._replace(most_sequences=sequences_at_most(engine))
    run = SimulatedServer(engine, w, rules).closed().all
    steady = serving.steady(engine.model, engine.cluster, stack, layouts, w)
    asked = serving.steady_question(engine, w, steady.running, ran=True)
    asked = asked._replace(assumed=ran.software.stood_in)
    predicted = {
        "tpot_s": run.tpot_s.mean,
        "ttft_s": run.ttft_s.mean,
        "tokens_per_s_per_device": run.tokens_per_s / int(layouts.devices),
    }
    return [
        Prediction(
            row.text("id"),
            quantity,
            value,
            predicted[quantity],
            source_of(row),
            (*ran.assumed, *unstated, *launched),
            pair=(quantity, *(row.text(c) for c in _ALIKE)),
            tp=ran.tp,
            question=asked,
            slower=math.log1p(float(steady.even_s / steady.tpot_s)),
            judged_as="tpot_s" if quantity == "tokens_per_s_per_device" else "",
        )
        for quantity, value in measured.items()
    ]


def _offline(row: Row, ran: ServedRow) -> list[Prediction]:
    """Output tokens per second of requests that are all sent at once, however many the engine runs."""
    engine = ran.engine
    w = Serving(
        isl=row.count("isl"),
        osl=row.count("osl"),
        concurrency=OFFLINE_REQUESTS,
        formats=engine.formats,
        length_spread=0.0,
    )
    run = SimulatedServer(engine, w).closed(requests=OFFLINE_REQUESTS).all
    asked = serving.steady_question(engine, w, np.int64(max(run.running.mean, 1.0)), ran=True)
    asked = asked._replace(assumed=ran.software.stood_in)
    unsaid = Assumed("requests", str(OFFLINE_REQUESTS)), Assumed("length_spread", "0")
    return [
        Prediction(
            row.text("id"),
            "tokens_per_s_per_device",
            row.number("tokens_per_s_per_device"),
            run.tokens_per_s / int(engine.layouts.devices),
            source_of(row),
            (*ran.assumed, *unsaid),
            question=asked,
            judged_as="tpot_s",
        )
    ]


def row_formats(
    row: Row, stack: Stack, model: Model, device: Device
) -> tuple[Formats, tuple[Assumed, ...]]:
    """Number formats of a row, and what had to be assumed.

    A 4-bit format is the weights'; products are in it where the device has it, else in 16 bit, as
    weight-only kernels are. Where the row states nothing, the checkpoint's own formats hold.
    """
    cache = (
        canonical_dtype(row.text("kv_dtype"), f"line {row.line}: kv_dtype", KV_CACHE)
        if row.text("kv_dtype")
        else None
    )
    stated = row.text("dtype")
    own = model.quantization.weight_dtype if model.quantization else None
    if not stated:
        return Formats(kv_cache=cache), (Assumed("dtype", own or model.dtype),)
    products, weights = operands_of(stated, f"line {row.line}: dtype")
    assumed: tuple[Assumed, ...] = ()
    meant = stack.few_rows.four_bit
    if weights == "int4" and meant is not None and own is None:
        return Formats(weights=meant, kv_cache=cache), (Assumed("dtype", meant),)
    if cache is None and keeps_fp8_cache(stack, model, device, products):
        cache, assumed = "fp8", (Assumed("kv_dtype", "fp8"),)
    width = ELEMENT_BYTES[products or weights or "bf16"]
    if width < 1 and own is not None and ELEMENT_BYTES[own] < 1:
        # the publisher's 4-bit checkpoint, whichever of the 4-bit formats the row's word is short for
        products, weights = None, None
        if _kind(stack, model, device) in _MXFP8_ASKED:
            products, assumed = "mxfp8", (*assumed, Assumed("activations", "mxfp8"))
    elif width < 1 and products and peak_dtype(products, device.peak_flops_per_s) != products:
        products, weights = None, products
    elif width >= 2 and own is not None and states_format(row.text("model")):
        products, weights = products, None  # of the activations: the name says the weights' format
    elif width >= 2:
        products, weights = None, None if own == expert_format(row, own) else products
    return Formats(dtype=products, weights=weights, kv_cache=cache), assumed


# NVIDIA ModelOpt's checkpoints, which are TensorRT-LLM's, name FP8 for the cache beside these weights
# (kv_cache_quant_algo of their hf_quant_config.json).
_MODELOPT = ("fp8", "nvfp4")
# Engine, model type and generation of published sweeps that ask for formats which the rows do not
# state: --kv-cache-dtype of benchmarks/dsr1_fp{4,8}_b200*.sh and gptoss_fp4_b200*.sh, and of the latter
# MXFP8 activations (VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1; InferenceMAX/InferenceMAX).
_FP8_CACHE_ASKED = (
    ("sglang", "deepseek_v3", "blackwell"),
    ("vllm", "gpt_oss", "blackwell"),
    ("trtllm", "gpt_oss", "blackwell"),
)
_MXFP8_ASKED = (("vllm", "gpt_oss", "blackwell"), ("trtllm", "gpt_oss", "blackwell"))


def keeps_fp8_cache(stack: Stack, model: Model, device: Device, products: str | None) -> bool:
    """Whether rows of the kind keep keys and values in FP8 where they do not say."""
    if stack.software == "trtllm" and products in _MODELOPT and model.model_type != "gpt_oss":
        return True
    return _kind(stack, model, device) in _FP8_CACHE_ASKED


def _kind(stack: Stack, model: Model, device: Device) -> tuple[str, str, str]:
    return stack.software, model.model_type, device.generation


def states_format(name: str) -> bool:
    """Whether a model's name says how its weights are stored."""
    found = named_model(name, "model")
    return found is not None and found.format is not None


def expert_format(row: Row, own: str | None) -> str | None:
    """Format of the experts' weights that the row states; only that of the checkpoint can stand
    beside another one of the rest."""
    if not row.text("moe_dtype"):
        return None
    stated = canonical_dtype(row.text("moe_dtype"), f"line {row.line}: moe_dtype", WEIGHT)
    if stated not in (own, known(row.text("dtype"))):
        raise Unsupported(f"experts in {stated} beside {row.text('dtype')} in a {own} checkpoint")
    return stated


# Whose publisher's FP8 checkpoints have a scale per 128 × 128 weights and per 128 activations
# (quantization_config of Qwen/Qwen3-32B-FP8, MiniMaxAI/MiniMax-M2); other models' are taken as scaled per tensor.
BLOCK_SCALED = ("qwen3", "qwen3_moe", "minimax_m2")


def checkpoint_of(row: Row, model: Model) -> tuple[Model, tuple[Assumed, ...]]:
    """The model with the quantisation of its publisher's checkpoint in the row's format."""
    if (
        known(row.text("dtype")) != "fp8"
        or model.quantization
        or model.model_type not in BLOCK_SCALED
    ):
        return model, ()
    blocks = Stored(dtype="fp8", block=(128, 128))
    return quantised(model, "fp8", blocks), (Assumed("fp8_scales", "block"),)


# Of one model's several, the one that names its release first.
_NVFP4_NAMES = ("nvidia/{}-fp4-v2", "nvidia/{}-nvfp4")


def nvfp4_checkpoint(
    row: Row, formats: Formats, model: Model
) -> tuple[Formats, Model, tuple[Assumed, ...]]:
    """A row of NVFP4 ran the model's NVFP4 checkpoint, where one is published: it leaves layers wide."""
    if formats.dtype != "nvfp4":
        return formats, model, ()
    for form in _NVFP4_NAMES:
        name = form.format(row.text("model"))
        with contextlib.suppress(InputError):
            found = named_model(name, "model")
            if found is None or found.format is None:
                continue
            said = Assumed("checkpoint", found.format["name"])
            return Formats(kv_cache=formats.kv_cache), load_model(name, "model"), (said,)
    return formats, model, ()


def check_format(row: Row, engine: Engine, measured_s: float) -> None:
    """A token cannot take less than reading the weights once: then their format is not the row's.

    Of models without routed experts, whose weights are all read.
    """
    if any(block.moe is not None for block in engine.model.blocks):
        return
    program = engine.decode(np.int64(1), 1).program
    read = sum(float(op.weight_bytes) for op in program.head)
    for ops, layers in zip(program.layers, program.ctx.model.kind_counts(), strict=True):
        read += layers * sum(float(op.weight_bytes) for op in ops)
    floor = read / engine.cluster.device.memory_bytes_per_s
    if measured_s < floor:
        raise Suspect(
            f"{measured_s * 1e3:.3g} ms per token is less than the {floor * 1e3:.3g} ms that reading "
            f"{row.text('dtype', 'bf16')} weights takes: they have another format"
        )
