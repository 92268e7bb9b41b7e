"""ConfigMaps and Secrets of Kubernetes: the variables and files that containers get of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from meshwise.launch.shell.values.memory import joined_texts, lines_of, unfollowed

_KINDS = {"ConfigMap": ("data",), "Secret": ("stringData",)}


class ConfigMaps:
    """The data of the objects of a text and of the files beside it, by name."""

    def __init__(self, documents: Iterable[Any]) -> None:
        self.of: dict[str, dict[str, str]] = {}
        for document in documents:
            if not isinstance(document, dict):
                continue
            for key in _KINDS.get(str(document.get("kind")), ()):
                name, data = value_at(document, "metadata", "name"), document.get(key)
                if name and isinstance(data, dict):
                    self.of[str(name)] = {k: v for k, v in data.items() if isinstance(v, str)}
            generators = document.get("configMapGenerator")
            for made in generators if isinstance(generators, list) else []:
                said = made.get("literals") if isinstance(made, dict) else None
                pairs = [str(p).partition("=") for p in said] if isinstance(said, list) else []
                if pairs:
                    self.of[str(made.get("name"))] = {k: v for k, _, v in pairs}

    def variables(self, container: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What a container's environment gets of them; a value that is not here says where it is."""
        found: list[tuple[str, str]] = []
        for source in _list(container.get("envFrom")):
            name = value_at(source, "configMapRef", "name") or value_at(source, "secretRef", "name")
            prefix = str(source.get("prefix", "")) if isinstance(source, dict) else ""
            found += [(f"{prefix}{k}", v) for k, v in self.of.get(str(name), {}).items()]
        for entry in _list(container.get("env")):
            for kind, shown in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                reference = value_at(entry, "valueFrom", kind)
                if not isinstance(reference, dict):
                    continue
                name, key = str(reference.get("name")), str(reference.get("key"))
                value = self.of.get(name, {}).get(key)
                own = str(entry.get("name", ""))
                what = f"the {shown} {name} (key {key}), which is not in the text,"
                found.append((own, unfollowed(own, what) if value is None else value))
        return [(name, value) for name, value in found if name.isidentifier()]

    def files(self, container: Mapping[str, Any], volumes: Iterable[Any]) -> list[str]:
        """Commands that write the files which a container's volumes hold."""
        rows: list[str] = []
        by_name = {str(v.get("name")): v for v in volumes if isinstance(v, dict)}
        for mount in _list(container.get("volumeMounts")):
            volume = by_name.get(str(mount.get("name"))) if isinstance(mount, dict) else None
            for source in self._sources(volume):
                rows += self._written(source, mount)
        return rows

    def missing(self, container: Mapping[str, Any], volumes: Iterable[Any]) -> dict[str, str]:
        """Folders of files that are in no object of the text: the object that has them."""
        by_name = {str(v.get("name")): v for v in volumes if isinstance(v, dict)}
        found = {}
        for mount in _list(container.get("volumeMounts")):
            volume = by_name.get(str(mount.get("name"))) if isinstance(mount, dict) else None
            for source in self._sources(volume):
                name = str(source.get("name"))
                if name not in self.of:
                    found[str(mount.get("mountPath", "")).rstrip("/")] = name
        return found

    def _sources(self, volume: Any) -> list[dict[str, Any]]:
        """The objects of a volume, those of a projected one too."""
        if not isinstance(volume, dict):
            return []
        every = [volume, *_list(value_at(volume, "projected", "sources"))]
        return [s for v in every if isinstance(s := value_at(v, "configMap"), dict)]

    def _written(self, source: dict[str, Any], mount: Mapping[str, Any]) -> list[str]:
        data = self.of.get(str(source.get("name")), {})
        items = {
            str(i.get("key")): str(i.get("path"))
            for i in _list(source.get("items"))
            if isinstance(i, dict)
        }
        place, sub = str(mount.get("mountPath", "")).rstrip("/"), mount.get("subPath")
        rows: list[str] = []
        for key, text in data.items():
            path = items.get(key) if items else key
            if path is None or (sub is not None and str(sub) != path):
                continue
            end = "END_OF_FILE"
            while end in text:
                end += "_"
            name = shlex.quote(place if sub is not None else f"{place}/{path}")
            head, tail = (f"cat > {name} <<'{end}'\n", 0), (f"\n{end}", 0)
            rows.append(joined_texts([head, *lines_of(text), tail]))
        return rows


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def value_at(node: Any, *path: str) -> Any:
    """What stands under keys inside each other; None where one is missing."""
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node
