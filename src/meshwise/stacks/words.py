"""The words that switches of a stack take, where options, tables and launch commands take them too."""

from __future__ import annotations

from typing import Literal, get_args

Run = Literal["training", "inference", "collectives"]
Sharding = Literal["none", "zero1", "zero2", "zero3"]
Moments = Literal["fp32", "bf16", "fp16", "fp8"]
Optimizer = Literal["adam", "muon", "lion", "sgd", "adafactor"]
Dispatcher = Literal["alltoall", "deepep", "hybridep", "allgather"]
# parts of a layer that selective recomputation may do again (Megatron-Core's words)
Module = Literal[
    "core_attn", "layernorm", "moe_act", "shared_experts", "mla_up_proj", "mlp", "moe"
]  # fmt: skip
# `quant_method` of a checkpoint, by the names of those that some engine does not load
QuantMethod = Literal[
    "aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "exl2", "exl3", "fbgemm_fp8", "fp8",
    "gguf", "gptq", "higgs", "hqq", "mlx", "modelopt", "mxfp4", "quanto", "quark", "torchao"
]  # fmt: skip
# of devices, by what their kernels are compiled for (``catalog/kernels/index.json``)
Generation = Literal[
    "volta", "turing", "ampere", "ada", "hopper", "blackwell", "blackwell-rtx", "cdna2", "cdna3", "cdna4"
]  # fmt: skip
# of devices, by the toolchain that their programs are compiled with
Toolchain = Literal["cuda", "rocm", "gaudi", "tpu", "cpu"]
TOOLCHAIN_OF: dict[str, Toolchain] = {  # generation of the catalog → its family; others are not known
    **dict.fromkeys(
        ("volta", "turing", "ampere", "ada", "hopper", "blackwell", "blackwell-rtx"), "cuda"
    ),
    **dict.fromkeys(("cdna2", "cdna3", "cdna4"), "rocm"),
    "gaudi": "gaudi", "tpu": "tpu", "cpu": "cpu",
}  # fmt: skip
RUNS: tuple[Run, ...] = get_args(Run)
SHARDS: tuple[Sharding, ...] = get_args(Sharding)
MOMENTS: tuple[Moments, ...] = get_args(Moments)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
DISPATCHERS: tuple[Dispatcher, ...] = get_args(Dispatcher)
MODULES: tuple[Module, ...] = get_args(Module)
