"""Checkpoints are read by slice, bit for bit, and whatever is wrong with one is said before."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.runtime import tiny

from meshwise.errors import InputError
from meshwise.runtime import load_model
from meshwise.runtime.model import cuts
from meshwise.runtime.model import families as plans
from meshwise.runtime.weights import build, slices
from meshwise.runtime.weights import materialise as weights
from meshwise.runtime.weights.checkpoint import Checkpoint

LARGEST_SHARE = 0.35  # of the model, that a rank's memory may grow by at TP=4


def saved(family: str, folder: Path, **settings: Any) -> Any:
    model = tiny.build(family)
    model.save_pretrained(folder, **settings)
    return model


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_one_rank_reads_what_transformers_reads(family: str, tmp_path: Path) -> None:
    saved(family, tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    from transformers import AutoModelForCausalLM

    want = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    got = dict(model.named_parameters())
    for name, p in want.named_parameters():
        assert torch.equal(got[name], p), name
    assert {n for n, _ in model.named_parameters(remove_duplicate=False)} == {
        n for n, _ in want.named_parameters(remove_duplicate=False)
    }
    assert list(got) == [n for n, _ in want.named_parameters()]  # tied ones are one
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    whole = {n: b for n, b in want.named_buffers() if "inv_freq" in n}
    for name, b in whole.items():
        assert torch.equal(model.get_buffer(name), b), name
    ids = torch.randint(3, tiny.VOCABULARY, (2, 8))
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, want.eval()(ids).logits, atol=1e-6)


ROTARY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": (
        "llama",
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "yarn": ("qwen2", {"factor": 2.0, "original_max_position_embeddings": 32}),
    "linear": ("mistral", {"factor": 4.0}),
    "longrope": ("phi3", {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "factor": 2.0}),
}


@pytest.mark.parametrize("rule", ROTARY)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_buffers_are_those_of_a_model_built_as_usual(rule: str, kind: torch.dtype) -> None:
    from transformers import AutoModelForCausalLM

    family, settings = ROTARY[rule]
    parameters = {"rope_type": rule, "rope_theta": 1e4, **settings}
    config = tiny.config(family, rope_parameters=parameters)
    want = AutoModelForCausalLM.from_config(config, dtype=kind)
    with torch.device("meta"):
        got = AutoModelForCausalLM.from_config(config, dtype=kind)
    weights.materialise_buffers(got, torch.device("cpu"))
    buffers = dict(got.named_buffers())
    assert buffers.keys() == dict(want.named_buffers()).keys()
    for name, b in want.named_buffers():
        assert buffers[name].dtype == b.dtype and torch.equal(buffers[name], b), name
    plain = type(want.model.rotary_emb)(tiny.config(family))
    assert not torch.equal(plain.inv_freq, want.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_shares_are_slices(family: str, tmp_path: Path) -> None:
    model = saved(family, tmp_path)
    source = Checkpoint(str(tmp_path))
    parameters = dict(model.named_parameters())
    source.check(*build.expected(model))
    plan = plans.split_family(family)
    for ranks in (2, 4):
        for rank in range(ranks):
            for name, cut in plans.cuts(
                model, plan, plans.rank_sizes(model.config, ranks, rank)
            ).items():
                if name not in parameters:
                    continue
                got = source.read(name, cut, torch.float32, torch.device("cpu"))
                assert torch.equal(got, cuts.apply(cut, parameters[name].detach())), name
                half = source.read(name, cut, torch.bfloat16, torch.device("cpu"))
                assert torch.equal(half, got.to(torch.bfloat16)), name


def damage(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return do


def cut_at(where: float) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[: int(where * len(data))])

    return do


def header(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        table = json.loads(data[8 : 8 + length])
        change(table)
        text = json.dumps(table).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return do


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as handle:
        handle.write(b"12345")


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index(table: Any) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(table))

    return do


NORM, UP = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
FAULTS: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "missing": (damage(lambda t: t.pop(UP)), ["1 missing", UP]),
    "extra": (damage(lambda t: t.update(odd=torch.zeros(2))), ["1 extra", "odd"]),
    "shape": (
        damage(lambda t: t.update({NORM: torch.zeros(7)})),
        ["1 wrongly shaped", NORM, "[7]", "[32]"],
    ),
    "several": (
        damage(lambda t: [t.pop(n) for n in list(t) if "layers.0" in n]),
        ["13 missing", "and 9 more"],
    ),
    "truncated data": (cut_at(0.9), ["truncated", "ends at byte"]),
    "truncated header": (cut_at(0.01), ["truncated"]),
    "empty": (cut_at(0), ["truncated"]),
    "no JSON": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"{{{{"),
        ["header is no JSON"],
    ),
    "wrong offsets": (
        header(lambda t: t[NORM].update(data_offsets=[0, 4])),
        [NORM, "4 bytes for [32]"],
    ),
    "odd entry": (header(lambda t: t.update({NORM: 3})), [NORM, "damaged"]),
    "unknown type": (header(lambda t: t[NORM].update(dtype="F12")), [NORM, "F12"]),
    "type is no text": (header(lambda t: t[NORM].update(dtype=[])), [NORM, "[]"]),
    "whole numbers": (header(lambda t: t[NORM].update(dtype="I32")), ["1 stored as", NORM]),
    "negative": (header(lambda t: t[NORM].update(shape=[-32])), [NORM]),
    "place is text": (header(lambda t: t[NORM].update(data_offsets=["a", "b"])), [NORM, "place"]),
    "one place for two": (
        header(lambda t: t[UP].update(data_offsets=t[UP.replace("1", "0")]["data_offsets"])),
        ["begins at byte"],
    ),
    "longer than it says": (
        lengthen,
        ["5 bytes that are no tensor's"],
    ),
    "pickle": (to_pickle, ["pytorch_model.bin", "never loaded", "save_pretrained"]),
    "nothing": (lambda f: (f / "model.safetensors").unlink(), ["no .safetensors"]),
    "index without shard": (index({"weight_map": {"a": "gone.safetensors"}}), ["1 missing shards"]),
    "index of another file": (
        index({"weight_map": {"a": "model.safetensors"}}),
        ["the index says a in model.safetensors"],
    ),
    "index outside": (index({"weight_map": {"a": "../x.safetensors"}}), ["outside its folder"]),
    "index is no index": (index([1]), ["no index"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_line(fault: str, tmp_path: Path) -> None:
    model = saved("llama", tmp_path)
    spoil, words = FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        Checkpoint(str(tmp_path)).check(*build.expected(model))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_header_with_any_byte_changed(tmp_path: Path) -> None:
    """It is read as it was meant, or refused in one line, never anything else."""
    model = saved("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    refused = 0
    for at in (*range(8), *range(8, 8 + length, 13)):
        for byte in b'9"[}\x00\xff':
            file.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
            try:
                Checkpoint(str(tmp_path)).check(*build.expected(model))
            except InputError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                load_file(file)  # safetensors itself accepts it as well
    assert refused > 1000


def test_a_tied_tensor_that_is_stored_and_differs(tmp_path: Path) -> None:
    """transformers would untie it, so a model that stays tied would compute something else."""
    model = saved("qwen2", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file)
    Checkpoint(str(tmp_path)).check(*build.expected(model))
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"lm_head.weight differs .* tie_word_embeddings"):
        Checkpoint(str(tmp_path)).check(*build.expected(model))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_in_one_tensor(family: str, tmp_path: Path) -> None:
    """As transformers 5 holds them in memory, beside one tensor per expert as hubs do."""
    model = saved(family, tmp_path)
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    apart = set(load_file(tmp_path / "model.safetensors"))
    save_file(parameters, tmp_path / "model.safetensors")
    source = Checkpoint(str(tmp_path))
    source.check(*build.expected(model))
    fused = [n for n in parameters if ".experts." in n]
    assert fused and not apart.intersection(fused)
    for name, cut in plans.cuts(
        model, plans.split_family(family), plans.rank_sizes(model.config, 4, 3)
    ).items():
        if name in fused:
            got = source.read(name, cut, torch.float32, torch.device("cpu"))
            assert torch.equal(got, cuts.apply(cut, parameters[name])), name


@pytest.mark.parametrize(
    "kind", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_what_is_stored_is_converted(kind: torch.dtype, tmp_path: Path) -> None:
    stored = torch.randn(24, 40).to(kind)
    save_file({"x": stored}, tmp_path / "model.safetensors")
    source = Checkpoint(str(tmp_path))
    for cut in (
        cuts.Cut.everything((24, 40)),
        cuts.Cut(0, ((3, 9), (20, 24)), 13, (24, 40)),  # two spans, and zeros after them
        cuts.Cut(1, ((0, 5), (0, 5), (39, 40)), 11, (24, 40)),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            got = source.read("x", cut, dtype, torch.device("cpu"))
            assert torch.equal(got, cuts.apply(cut, stored.to(dtype))), (cut, dtype)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("block", [48, 400, 100_000])
def test_whatever_the_blocks(dim: int, block: int, monkeypatch: Any, tmp_path: Path) -> None:
    """Rows longer and shorter than a block, column runs read alone and with what lies between."""
    whole = torch.randn(24, 40)
    save_file({"x": whole}, tmp_path / "model.safetensors")
    source = Checkpoint(str(tmp_path))
    cut = cuts.Cut(dim, ((5, 17),), 12, (24, 40))
    for small in (0, 1 << 20):
        monkeypatch.setattr(slices, "BLOCK", block)
        monkeypatch.setattr(slices, "SMALL", small)
        got = source.read("x", cut, torch.float32, torch.device("cpu"))
        assert torch.equal(got, cuts.apply(cut, whole))


def test_a_file_that_is_a_pickle_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(InputError, match="pickle"):
        Checkpoint(str(tmp_path / "x.pt"))
    with pytest.raises(InputError, match="no such file"):
        Checkpoint(str(tmp_path / "gone"))


def test_two_files_with_one_tensor(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"x is in a.safetensors and in b.safetensors"):
        Checkpoint(str(tmp_path))


def test_older_names(tmp_path: Path) -> None:
    """Hubs' GPT-2 has no prefix and carries its mask; a tied head may be stored as well."""
    model = saved("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.zeros(1, 1, 4, 4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, file)
    source = Checkpoint(str(tmp_path))
    source.check(*build.expected(model))
    cut = cuts.Cut.everything(tuple(model.transformer.wte.weight.shape))
    got = source.read("transformer.wte.weight", cut, torch.float32, torch.device("cpu"))
    assert torch.equal(got, model.transformer.wte.weight)


PEAK = """
import json, resource, sys
import torch
from meshwise.runtime.model import families as plans
from meshwise.runtime.weights import build, materialise as weights
from meshwise.runtime.weights.checkpoint import Checkpoint
from meshwise.runtime.model.cuts import Cut
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
table = json.load(open(sys.argv[1] + "/config.json"))
config = build.config(table)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
size = sum(p.numel() for p in model.parameters()) * 4
cuts = plans.cuts(model, plans.split_family("llama"), plans.rank_sizes(config, 4, 1))
source = Checkpoint(sys.argv[1])
torch.ones(64, 64) @ torch.ones(64, 64)
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before = now()
weights.load_shares(model, cuts, source, torch.float32, torch.device("cpu"))
peak = int([l for l in open("/proc/self/status") if l.startswith("VmHWM")][0].split()[1]) * 1024
print((peak - before) / size)
"""


def test_peak_memory_of_a_rank(tmp_path: Path) -> None:
    """At TP=4 a rank's memory grows by its share and little more."""
    changes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 4,
        "vocab_size": 16384,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 128,
    }
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(tiny.config("llama", **changes)).save_pretrained(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    print(f"peak over the model's bytes at TP=4: {float(run.stdout):.3f}")
    assert 0.2 < float(run.stdout) <= LARGEST_SHARE
