"""KServe's objects: what their controllers start for a model, its degrees and the arguments beside it."""

from __future__ import annotations

import shlex
from typing import Any

from meshwise.errors import InputError, shorten

_DEGREES = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
    "dataLocal": "--data-parallel-size-local",
}
_WORKERS = {
    "tensorParallelSize": "--tensor-parallel-size",
    "pipelineParallelSize": "--pipeline-parallel-size",
}
_ENGINES = ("vllm", "huggingface")  # model formats whose runtime is vLLM's server
_ARGUMENTS = "VLLM_ADDITIONAL_ARGS"  # flags that the service's own container is given so


def of_service(document: dict[str, Any]) -> dict[str, Any]:
    """A document whose containers say what KServe starts in them; any other document as it is."""
    spec = document.get("spec")
    if not isinstance(spec, dict) or "kserve.io/" not in str(document.get("apiVersion", "")):
        return document
    kind = document.get("kind")
    if kind in ("LLMInferenceService", "LLMInferenceServiceConfig"):
        return _service(document, spec)
    predictor = spec.get("predictor")
    if kind == "InferenceService" and isinstance(predictor, dict):
        return _predictor(document, spec, predictor)
    return document


def _service(document: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """vLLM for the model in the container ``main``; with ``prefill`` answers are made elsewhere."""
    if "prefill" in spec:
        raise InputError(
            "command: spec.prefill: prompts and answers are on GPUs of their own, with a layout each",
            field="spec.prefill",
            legal="a service without it, or the command of one of the two",
        )
    template = spec.get("template")
    template = dict(template) if isinstance(template, dict) else {}
    containers = [c for c in template.get("containers", []) if isinstance(c, dict)]
    main = next((c for c in containers if c.get("name", "main") == "main"), {"name": "main"})
    if main.get("command"):
        return document
    model = spec.get("model")
    model = model if isinstance(model, dict) else {}
    served = {
        **main,
        "command": ["vllm", "serve", served_model(model.get("uri"), model.get("name"))],
    }
    served["args"] = [*degrees_of(spec.get("parallelism")), *_list(main), *_more(main)]
    template["containers"] = [served, *(c for c in containers if c is not main)]
    rest = {k: v for k, v in spec.items() if k not in ("worker", "template")}
    if "worker" in spec:
        pods = pods_of(spec.get("parallelism"))
        return {
            **document,
            "spec": {**rest, "leaderWorkerTemplate": {"size": pods, "leaderTemplate": template}},
        }
    return {**document, "spec": {**rest, "template": template}}


def pods_of(said: Any) -> str:
    """Pods of one server: its replicas of attention over those of a pod, else its stages."""
    said = said if isinstance(said, dict) else {}
    whole, own = str(said.get("data", "")), str(said.get("dataLocal", ""))
    if whole.isdigit() and own.isdigit() and int(own) > 0:
        return str(-(-int(whole) // int(own)))
    return str(said.get("pipeline", 1))


def _predictor(
    document: dict[str, Any], spec: dict[str, Any], predictor: dict[str, Any]
) -> dict[str, Any]:
    """A model that a runtime serves: its arguments are the engine's."""
    model = predictor.get("model")
    model = model if isinstance(model, dict) else {}
    named = model.get("modelFormat")
    name = str(named.get("name", "")).lower() if isinstance(named, dict) else ""
    if name not in _ENGINES or model.get("command"):
        return document
    words, said = [], None
    for word in _list(model):
        key, _, value = word.partition("=")
        if key.replace("-", "_") in ("__model_id", "__model_dir"):
            said = value
        elif key.replace("-", "_") != "__model_name" or not value:
            words.append(word)
    workers = predictor.get("workerSpec")
    degrees = _flags(workers if isinstance(workers, dict) else {}, _WORKERS)
    container = {k: v for k, v in model.items() if k != "modelFormat"}
    container["command"] = ["vllm", "serve", served_model(model.get("storageUri"), said)]
    container["args"] = [*degrees, *words]
    most, least = (predictor.get(f"{end}Replicas") for end in ("max", "min"))
    copies = {"replicas": least} if least is not None and least == most else {}
    return {**document, "spec": {**spec, "predictor": {"containers": [container], **copies}}}


def served_model(uri: Any, name: Any) -> str:
    """The hub's name of a model; a place in a store says it only where a name stands beside it."""
    place = str(uri or "")
    if place.startswith("hf://"):
        return place.removeprefix("hf://").partition(":")[0]
    return str(name or place or "$MODEL")


def degrees_of(said: Any) -> list[str]:
    found = _flags(said if isinstance(said, dict) else {}, _DEGREES)
    spread = isinstance(said, dict) and str(said.get("expert", "")).lower() == "true"
    return [*found, "--enable-expert-parallel"] if spread else found


def _flags(said: dict[str, Any], names: dict[str, str]) -> list[str]:
    return [f"{flag}={said[key]}" for key, flag in names.items() if said.get(key)]


def _list(container: dict[str, Any]) -> list[str]:
    words = container.get("args")
    return list(words) if isinstance(words, list) else []


def _more(container: dict[str, Any]) -> list[str]:
    for entry in container.get("env") or []:
        if isinstance(entry, dict) and entry.get("name") == _ARGUMENTS:
            text = str(entry.get("value", ""))
            try:
                return shlex.split(text)
            except ValueError as error:
                raise InputError(
                    f"{_ARGUMENTS}: {str(error).lower()} in {shorten(text)}",
                    field=_ARGUMENTS,
                    value=text,
                    legal="flags with their quotes closed",
                ) from None
    return []
