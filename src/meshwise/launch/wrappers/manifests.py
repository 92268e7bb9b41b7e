"""Manifests of containers: compose files and Kubernetes objects as the shell text that they start."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch import other_software
from meshwise.launch.files import code_blocks, yaml_text
from meshwise.launch.find import image_targets
from meshwise.launch.shell.runners.carried import IMAGE
from meshwise.launch.shell.values.memory import (
    assigned,
    joined_texts,
    line_of,
    lines_of,
    placed_words,
    quoted_text,
    text_of,
)
from meshwise.launch.table import every_target
from meshwise.launch.wrappers import compose, kserve, llm_d
from meshwise.launch.wrappers.config_maps import ConfigMaps, value_at
from meshwise.launch.wrappers.ray_cluster import ray_pods
from meshwise.launch.wrappers.slurm import ResourceRequest

# variables in which the text of a manifest says what its pods have
_SAID = ("GPUS", "PODS", "SIZE", "SERVERS", "NAME", "MOUNTED")
GPUS, PODS, SIZE, SERVERS, NAME, MOUNTED = (f"MESHWISE_POD_{n}" for n in _SAID)
_REPLICAS = ("replicas", "parallelism", "numNodes")
_GPU = re.compile(r"(nvidia|amd)\.com/(gpu|mig-[\w.-]+)$|google\.com/tpu$|habana\.ai/gaudi$")
# a group of pods that are one server: its own key, or those of its pods' templates beside its size
_GROUP, _LEADS = "leaderWorkerPattern", ("leaderTemplate", "workerTemplate")
# what the controllers of such groups set: the pods of a group, and which of them this one is
_GROUP_SIZES = ("LWS_GROUP_SIZE", "RBG_LWP_GROUP_SIZE")
_GROUP_INDICES = ("LWS_WORKER_INDEX", "RBG_LWP_WORKER_INDEX")


class Pod(NamedTuple):
    """A container in ``many`` pods alike; ``size``: pods of one group (LeaderWorkerSet)."""

    container: dict[str, Any]
    many: int
    size: int
    gpus: int | None
    name: str = ""  # of the service, or of the container
    volumes: tuple[Any, ...] = ()  # of its pod


def container_commands(
    text: str, given: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> str | None:
    """The shell text of a manifest's containers, what their pods have before each; None where the YAML
    is no manifest. ``given``: variables of the shell that starts it, which compose puts in their places;
    ``files``: texts beside it, whose ConfigMaps it may name."""
    documents = [
        compose.interpolated(d, given or {})
        if "services" in d
        else kserve.of_service(llm_d.of_chart(d))
        for d in _documents(text)
    ]
    tasks = [t for d in documents for part in _parts(d) if (t := _task(part)) is not None]
    if len(tasks) == 1:
        return text_of(["set -a", tasks[0]])
    if tasks:  # each by itself
        return text_of(row for t in tasks for row in ("(", "set -a", t, ")"))
    if not any(_whole_one(d) or _part(d) for d in documents):
        return text_of(_scripts(documents)) or None
    found: list[str] = []
    maps = ConfigMaps([*_beside(files or {}), *documents])
    for document in documents:
        own = [p for p in _pods(document, 1, 1) if _words(p.container)]
        whole = sum(p.many for p in own if p.gpus) or sum(p.many for p in own)
        for pod in own:
            found += [*_resources(pod, document, whole), *_configured(pod, maps)]
            found += container_text(pod.container)
    if not found:
        other = next((o for i in _images(documents) if (o := other_software.of_image(i))), None)
        if other is not None:
            raise other_software.refusal(other)
        raise InputError(
            "command: no container of the manifest has a command or args",
            field="command",
            value=shorten(text.strip()[:60]),
            legal="a container with its command",
        )
    return text_of(["set -a", *found])  # its environment is that of every shell within


def _beside(files: Mapping[str, str]) -> list[Any]:
    """Documents of the YAML files beside a manifest; of those that are none, nothing."""
    found: list[Any] = []
    for name, text in files.items():
        if name.endswith((".yaml", ".yml")):
            try:
                found += yaml_text.yaml_documents(text)
            except InputError:
                continue
    return found


def _configured(pod: Pod, maps: ConfigMaps) -> list[str]:
    """What a pod's container gets of ConfigMaps: files, and variables before its own."""
    rows = maps.files(pod.container, pod.volumes)
    rows += [assigned(n, v) for n, v in maps.variables(pod.container) if v]
    missing = maps.missing(pod.container, pod.volumes)
    return [*rows, *(f"{MOUNTED}={shlex.quote(f'{k}={v}')}" for k, v in missing.items())]


def _scripts(node: Any) -> list[str]:
    """Shell texts and pages that start an engine, as values of a file that is no manifest."""
    if isinstance(node, list):
        return [s for value in node for s in _scripts(value)]
    if isinstance(node, dict):
        return [s for value in node.values() for s in _scripts(value)]
    if not isinstance(node, str) or len(node) < 12 or " " not in node:
        return []
    own = code_blocks.code(str(node)) if code_blocks.is_page(node) else node
    return [own] if own and _starts_engine(own) else []


def _starts_engine(text: str) -> bool:
    named = (w for t in every_target() for p in t.program for w in p.split(" ")[:1])
    return any(w.strip("*") in text for w in named) and code_blocks.starts(text)


def _images(node: Any) -> list[str]:
    """The images of all containers."""
    if isinstance(node, list):
        return [i for value in node for i in _images(value)]
    if not isinstance(node, dict):
        return []
    own = [str(node["image"])] if isinstance(node.get("image"), str) else []
    return own + [i for value in node.values() for i in _images(value)]


def _documents(text: str) -> list[dict[str, Any]]:
    """The tables of a text; a list of containers as what holds it in a pod."""
    found = []
    for document in yaml_text.yaml_documents(text):
        if isinstance(document, list) and any(map(_runs, document)):
            document = {"containers": document}
        if isinstance(document, dict):
            found.append(document)
    return found


def _whole_one(document: dict[str, Any]) -> bool:
    return any(key in document for key in ("apiVersion", "services", "modelArtifacts"))


def _runs(node: Any) -> bool:
    """Whether a table is a container: its image, or its name in a list of them, and what it runs."""
    return isinstance(node, dict) and "image" in node and ("command" in node or "args" in node)


def _part(document: dict[str, Any]) -> bool:
    """Whether a table is cut out of a manifest: a container, or what holds containers."""
    own = document
    for key in ("spec", "template", "spec"):
        inner = own.get(key)
        own = inner if isinstance(inner, dict) else own
    return _runs(document) or isinstance(own.get("containers"), list)


def is_part(text: str) -> bool:
    """Whether a manifest is a part of one: what stands around it may ask for copies."""
    documents = [part for d in _documents(text) for part in _parts(d)]
    return not any(_whole_one(d) or _task(d) is not None for d in documents)


# a task's (keys of its shell text, of its GPUs and of its nodes, variables that its launcher sets: nodes,
# GPUs of each, GPUs of all)
_TASKS = (
    (
        "run",
        ("resources", "accelerators"),
        "num_nodes",
        ("SKYPILOT_NUM_NODES", "SKYPILOT_NUM_GPUS_PER_NODE", ""),
    ),
    (
        "commands",
        ("resources", "gpu"),
        "nodes",
        ("DSTACK_NODES_NUM", "DSTACK_GPUS_PER_NODE", "DSTACK_GPUS_NUM"),
    ),
)


def _parts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A task for each group of replicas with commands of its own (dstack), else the task itself."""
    groups = document.get("replicas")
    own = [g for g in groups if isinstance(g, dict)] if isinstance(groups, list) else []
    rest = {k: v for k, v in document.items() if k != "replicas"}
    return [{**rest, **g} for g in own if "commands" in g] or [document]


def _task(document: dict[str, Any]) -> str | None:
    """The shell text of a task for a cloud's launcher (SkyPilot, dstack), its variables before it."""
    for key, path, many, (nodes, each, every) in _TASKS:
        text = document.get(key)
        text = _rows(text) if isinstance(text, list) else text
        if not isinstance(text, str) or "resources" not in document:
            continue
        gpus = _accelerators(value_at(document, *path))
        whole = _whole(document.get(many)) or 1
        rows = [f"{nodes}={whole}", f"{GPUS}={gpus or ''}", f"{PODS}={whole}", f"{SIZE}={whole}"]
        if gpus is not None:
            rows.append(f"{each}={gpus}")
            rows += [f"{every}={gpus * whole}"] if every else []
        rows += _variables(document.get("envs", document.get("env")))
        return text_of([*rows, text])
    return None


def _rows(commands: list[Any]) -> str | None:
    """A list of commands as one text; None of a list of other things."""
    plain = all(isinstance(c, str) for c in commands)
    return text_of(commands) if plain and commands else None


def _accelerators(said: Any) -> int | None:
    """GPUs of ``H100:8``, ``8``, ``{H100: 8}``, ``{name: H100, count: 8}``; None of a range."""
    if isinstance(said, dict):
        said = said.get("count") or next(iter(said.values()), None)
        return _whole(said) or (1 if said is not None and not re.search(r"\d", str(said)) else None)
    if isinstance(said, list):
        many = {_accelerators(each) for each in said}
        return many.pop() if len(many) == 1 else None
    text = str(said or "")
    last = text.rpartition(":")[2].strip()
    if _whole(last):
        return _whole(last)
    return 1 if text and ".." not in last else None


def _variables(environment: Any) -> list[str]:
    """Assignments of a table or a list of variables; those without a value are set elsewhere."""
    if isinstance(environment, dict):
        environment = [{"name": k, "value": v} for k, v in environment.items()]
    rows = []
    for entry in environment if isinstance(environment, list) else []:
        name, value = "", ""
        if isinstance(entry, dict):
            name, value = str(entry.get("name", "")), entry.get("value") or ""
            value = value if isinstance(value, str) else str(value)
        elif "=" in str(entry):
            name, _, value = str(entry).partition("=")
            value = joined_texts([(value, line_of(entry, 0))])
        if name.isidentifier() and value:
            rows.append(assigned(name, value))
    return rows


def _pods(
    node: Any, many: int, size: int, name: str = "", volumes: tuple[Any, ...] = ()
) -> list[Pod]:
    if isinstance(node, list):
        return [p for value in node for p in _pods(value, many, size, name, volumes)]
    if not isinstance(node, dict):
        return []
    held = node.get("volumes")
    volumes = tuple(held) if isinstance(held, list) else volumes
    for key in _REPLICAS:
        many *= _whole(node.get(key)) or 1
    size *= _whole(value_at(node, _GROUP, "size")) or 1
    if any(key in node for key in _LEADS):
        size *= _whole(node.get("size")) or 1
    if any(key in node for key in ("command", "args", "entrypoint")):
        many *= _whole(value_at(node, "deploy", "replicas")) or 1
        gpus, size = ray_pods(node, _gpus) or (_gpus(node), size)
        return [Pod(node, many, size, gpus, str(node.get("name", name)), volumes)]
    inner = ((str(key), value) for key, value in node.items())
    return [p for key, value in inner for p in _pods(value, many, size, key, volumes)]


def _whole(value: Any) -> int | None:
    return int(value) if re.fullmatch(r"\d{1,6}", str(value)) else None


def _gpus(container: dict[str, Any]) -> int | None:
    """GPUs of a pod's limits or of a compose service's devices."""
    resources = container.get("resources") or container.get("resourcesPerNode")
    for kind in ("limits", "requests"):
        said = value_at(resources, kind)
        for key, value in said.items() if isinstance(said, dict) else []:
            if _GPU.search(str(key)):
                return _whole(value)
    deploy = container.get("deploy")
    devices = value_at(deploy, "resources", "reservations", "devices")
    for device in devices if isinstance(devices, list) else []:
        ids = device.get("device_ids") if isinstance(device, dict) else None
        if isinstance(ids, list):
            return len(ids)
        if isinstance(device, dict) and _whole(device.get("count")):
            return _whole(device.get("count"))
    return None


def _resources(pod: Pod, document: dict[str, Any], whole: int) -> list[str]:
    """Assignments: GPUs of the pod, pods of the job, pods of a group, and groups or copies. An
    operator of PyTorch also sets torchrun's own variables."""
    # a service of compose, a Deployment or a group is a server by itself; other kinds are one job
    rows = [
        f"{GPUS}={pod.gpus or ''}",
        f"{PODS}={pod.many * pod.size if pod.size > 1 else whole}",
        f"{SIZE}={pod.size}",
        f"{SERVERS}={pod.many}",
        f"{NAME}={shlex.quote(pod.name)}",
    ]
    if pod.size > 1 or document.get("kind") == "LeaderWorkerSet":
        rows += [f"{name}={pod.size}" for name in _GROUP_SIZES]
        rows += [f"{name}=0" for name in _GROUP_INDICES]
    if document.get("kind") in ("PyTorchJob", "TrainJob"):
        per = _whole(value_at(document, "spec", "nprocPerNode")) or pod.gpus
        per = _whole(value_at(document, "spec", "trainer", "numProcPerNode")) or per
        rows += [f"PET_NNODES={whole}", f"PET_NPROC_PER_NODE={per or ''}"]
        rows += [f"WORLD_SIZE={whole * per}" if per else "WORLD_SIZE="]
    return rows


def pod_request(variables: Mapping[str, str]) -> ResourceRequest | None:
    """What the pods of a manifest's job have; None outside a manifest."""
    if PODS not in variables:
        return None
    return ResourceRequest(
        nodes=_whole(variables[PODS]), gpus_per_node=_whole(variables.get(GPUS, ""))
    )


class ServerPods(NamedTuple):
    """Pods of servers: GPUs of each (None: not said), pods of one server, servers."""

    gpus: int | None
    size: int
    servers: int


def server_pods(variables: Mapping[str, str]) -> ServerPods:
    return ServerPods(
        _whole(variables.get(GPUS, "")),
        _whole(variables.get(SIZE, "")) or 1,
        _whole(variables.get(SERVERS, "")) or 1,
    )


def container_text(container: dict[str, Any]) -> list[str]:
    """Its environment as assignments, and its command after its image."""
    rows = _variables(container.get("env", container.get("environment")))
    words = _words(container)
    image = str(container.get("image", ""))
    called = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    for name, chosen in image_targets().items():
        own = called.startswith(chosen.name) and words[0].startswith("-")  # its image built again
        ours = own or (name in image and (words[0].startswith("-") or "/" in words[0][1:]))
        if ours and not words[0].endswith((chosen.name, "python", "python3", "bash", "sh")):
            words = [IMAGE, name, *words]
            break
    if other_software.of_image(image) is not None and words[0].startswith("-"):
        words = [IMAGE, called, *words]
    other_software.check_has_gpus(image, words)
    quoted = [_quoted(w) for w in words]
    return [*rows, joined_texts(p for q in quoted for p in (*lines_of(q), (" ", 0)))]


def _words(container: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key in ("entrypoint", "command", "args"):
        found += _as_list(container.get(key))
    return found


def _as_list(value: Any) -> list[str]:
    if isinstance(value, list):
        return [v if isinstance(v, str) else str(v) for v in value]
    if not isinstance(value, str) or not value:  # a schema has tables of the same names
        return []
    lines = value.replace("\\\n", "  ")
    try:
        return placed_words(shlex.split(lines), value)
    except ValueError as error:
        raise InputError(
            f"command: {str(error).lower()} in a container's command",
            field="command",
            value=shorten(lines[:60]),
            legal="a shell command with its quotes closed",
        ) from None


def _quoted(word: str) -> str:
    """A word of a list, whose variables the container's start replaces: ``$(NAME)`` and ``$NAME``."""
    parts = [(re.sub(r"\$\(([A-Za-z_]\w*)\)", r"${\1}", p), n) for p, n in lines_of(word)]
    plain = "".join(p for p, _ in parts)
    if "$" in plain and "\n" not in plain and "'" not in plain and " " not in plain:
        shown = [(p.replace('"', '\\"'), n) for p, n in parts]
        return joined_texts([('"', parts[0][1]), *shown, ('"', parts[-1][1])])
    return quoted_text(joined_texts(parts))
