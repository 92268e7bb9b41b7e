"""Software whose launches are known and not read: it is named, with what can be given in its place."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.parsed import NoLaunch
from meshwise.launch.shell.runners.carried import IMAGE

_ENGINE = "the engine's own command (vLLM, SGLang, TensorRT-LLM) with the same degrees"
_TRAINER = (
    "the command or file that cuts the model: torchrun with Megatron-LM's or torchtitan's flags, \
accelerate, DeepSpeed's JSON"
)
# a word of the command → (title, what is legal)
_WORDS = {
    "text-generation-launcher": ("Text Generation Inference", _ENGINE),
    "text-generation-inference": ("Text Generation Inference", _ENGINE),
    "lmdeploy": ("LMDeploy", _ENGINE),
    "mlc_llm": ("MLC LLM", _ENGINE),
    "llama-server": ("llama.cpp", _ENGINE),
    "ollama": ("Ollama", _ENGINE),
    "tritonserver": ("Triton", _ENGINE),
    "trtllm-bench": ("trtllm-bench", "trtllm-serve with the same degrees"),
    "dynamo": ("NVIDIA Dynamo", _ENGINE),
    "verl": ("verl", "the actor's or the rollout's own command with its degrees"),
    "llamafactory-cli": ("LLaMA-Factory", _TRAINER),
    "axolotl": ("axolotl", _TRAINER),
    "colossalai": ("Colossal-AI", _TRAINER),
    "tune": ("torchtune", _TRAINER),
    "nemo": ("NeMo's command line", _TRAINER),
}
# words of a command → what asks servers that run elsewhere, and starts none
_CLIENTS = {
    ("vllm", "bench"): "vllm bench serve",
    ("vllm", "chat"): "vllm chat",
    ("vllm", "complete"): "vllm complete",
    ("sglang.bench_serving",): "sglang.bench_serving",
    ("sglang_router.launch_router",): "SGLang's router",
    ("sglang_router", "launch"): "SGLang's router",
    ("vllm-router",): "vLLM's router",
    ("benchmark_serving.py",): "benchmark_serving.py",
    ("genai-perf",): "genai-perf",
    ("guidellm",): "GuideLLM",
}
_CPU = re.compile(r"[-_/](cpu|xeon|arm64-cpu)\b")  # in the name or the tag of an engine's image
# how the name of an image begins → the word above
_IMAGES = {
    "text-generation-inference": "text-generation-inference",
    "huggingface-text-generation-inference": "text-generation-inference",
    "llama.cpp": "llama-server",
    "llama-cpp": "llama-server",
    "ik-llama": "llama-server",
    "lmdeploy": "lmdeploy",
    "ollama": "ollama",
    "tritonserver": "tritonserver",
    "mlc-llm": "mlc_llm",
}
# keys of a configuration file → title
_KEYS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"stage", "finetuning_type"}), "LLaMA-Factory", _TRAINER),
    (frozenset({"base_model", "micro_batch_size"}), "axolotl", _TRAINER),
    (frozenset({"actor_rollout_ref"}), "verl", "the actor's or the rollout's own command"),
    (frozenset({"parallelism", "tokens", "tokenizer"}), "nanotron", _TRAINER),
    (
        frozenset({"pipe_parallel_size", "model_parallel_size"}),
        "GPT-NeoX",
        "the same run as Megatron-DeepSpeed's command, with DeepSpeed's JSON",
    ),
    (
        frozenset({"per_device_train_batch_size", "model_name_or_path"}),
        "a trainer's configuration (transformers, TRL)",
        "the command that starts it (accelerate launch, deepspeed) with its configuration file",
    ),
    (frozenset({"image", "resources"}), "a Helm chart", _ENGINE),
)


def of_words(words: list[str]) -> tuple[str, str] | None:
    """(title, what is legal) of a command of such software."""
    for word in words[:40]:
        base = word.rpartition("/")[2].partition(":")[0]
        for name in (base, base.partition(".")[0], base.partition("-")[0]):
            if name in _WORDS:
                return _WORDS[name]
        image = of_image(word) if _runs_image(words) else None
        if image is not None:
            return image
    return None


def _runs_image(words: list[str]) -> bool:
    """Whether a command starts a container, by its image's name."""
    return words[0].rpartition("/")[2] in ("docker", "podman", "nerdctl", IMAGE)


def client(words: list[str]) -> NoLaunch | None:
    """Why a command that only asks servers states no layout; None of any other."""
    names = [w.rpartition("/")[2] for w in words[:40]]
    for i in range(len(names)):
        for known, title in _CLIENTS.items():
            if tuple(names[i : i + len(known)]) == known:
                return NoLaunch(
                    f"command: {title} asks servers that run already: it starts none",
                    field="command",
                    value=title,
                    legal="the command that starts the servers",
                )
    return None


def of_image(image: str) -> tuple[str, str] | None:
    """The same of a container's image."""
    called = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    for start, name in _IMAGES.items():
        if called.startswith(start):
            return _WORDS[name]
    return None


def check_has_gpus(image: str, words: list[str]) -> None:
    """Raise for an engine's image that is built for processors without GPUs."""
    if words[0] != IMAGE and not any("vllm" in w or "sglang" in w for w in words[:5]):
        return
    if _CPU.search(image) is not None:
        raise InputError(
            f"command: {shorten(image)} runs on CPUs: no layout of GPUs is in it",
            field="image",
            value=image,
            legal="an image for GPUs",
        )


def of_keys(table: dict[str, Any]) -> tuple[str, str] | None:
    """The same of a configuration file."""
    for keys, title, legal in _KEYS:
        if keys <= set(table):
            return title, legal
    return None


def refusal(other: tuple[str, str]) -> NoLaunch:
    title, legal = other
    return NoLaunch(
        f"command: {title} is not read: which layout it runs is not known",
        field="command",
        value=title,
        legal=legal,
    )
