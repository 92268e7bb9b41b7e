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
from meshwise.runtime import build, cuts, plans
from meshwise.runtime.checkpoint import Checkpoint
from meshwise.runtime.options import Options
from meshwise.runtime.peers import Peers

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
    table = json.loads((tmp_path / "config.json").read_text())
    model = build.build(
        build.config(table),
        Peers.of(None),
        Options(),
        kind=torch.float32,
        device=torch.device("cpu"),
        checkpoint=str(tmp_path),
    )
    got = dict(model.named_parameters())
    for name, p in want.named_parameters():
        assert torch.equal(got[name], p), name
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    whole = {n: b for n, b in want.named_buffers() if "inv_freq" in n}
    for name, b in whole.items():
        assert torch.equal(model.get_buffer(name), b), name
    ids = torch.randint(3, tiny.VOCABULARY, (2, 8))
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, want.eval()(ids).logits, atol=1e-6)


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_shares_are_slices(family: str, tmp_path: Path) -> None:
    model = saved(family, tmp_path)
    source = Checkpoint(str(tmp_path))
    parameters = dict(model.named_parameters())
    source.check(*build.expected(model))
    plan = plans.family(family)
    for ranks in (2, 4):
        for rank in range(ranks):
            for name, cut in plans.cuts(
                model, plan, plans.sizes(model.config, ranks, rank)
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
    "negative": (header(lambda t: t[NORM].update(shape=[-32])), [NORM]),
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
from meshwise.runtime import build, plans, weights
from meshwise.runtime.checkpoint import Checkpoint
from meshwise.runtime.cuts import Cut
torch.set_num_threads(1)
from transformers import AutoModelForCausalLM
table = json.load(open(sys.argv[1] + "/config.json"))
config = build.config(table)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
size = sum(p.numel() for p in model.parameters()) * 4
cuts = plans.cuts(model, plans.family("llama"), plans.sizes(config, 4, 1))
source = Checkpoint(sys.argv[1])
torch.ones(64, 64) @ torch.ones(64, 64)
def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before = now()
weights.load(model, cuts, source, torch.float32, torch.device("cpu"))
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
    assert 0.2 < float(run.stdout) <= LARGEST_SHARE
