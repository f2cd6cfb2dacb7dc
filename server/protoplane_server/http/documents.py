"""The documents that codegen lays beside its Python: OpenAPI and AsyncAPI, merged for a server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from protoplane_base.services import ServiceSpec


def load_document(services: Iterable[ServiceSpec], name: str) -> dict[str, Any] | None:
    """The document of several services as one.

    Args:
        services: The services.
        name: File name, ``openapi.json`` or ``asyncapi.json``.

    Returns:
        The document; ``None`` where no package has one. Of a path or a component that two
        documents declare, the first stands. What other services of a package offer is left out.
    """
    documents: list[dict[str, Any]] = []
    served: dict[str, set[str]] = {}
    for service in services:
        if service.package:
            name_here = service.full_name.rpartition(".")[2]
            served.setdefault(service.package, set()).add(name_here)
    for package, names in served.items():
        try:
            text = resources.files(package).joinpath(name).read_text("utf-8")
        except (FileNotFoundError, ModuleNotFoundError):
            continue
        document = json.loads(text)
        _leave_out(document, names)
        documents.append(document)
    if not documents:
        return None
    merged = documents[0]
    for document in documents[1:]:
        _merge(merged, document)
    return merged


def _leave_out(document: dict[str, Any], served: set[str]) -> None:
    """Drop the operations of OpenAPI whose services, which their tags name, are not served."""
    if "openapi" not in document:
        return
    kept = {*served, "events"}
    document["tags"] = [tag for tag in document.get("tags", []) if tag["name"] in kept]
    paths: dict[str, dict[str, Any]] = document["paths"]
    for path, item in tuple(paths.items()):
        left = {
            verb: operation
            for verb, operation in item.items()
            if not (_both(dict, operation, item) and kept.isdisjoint(operation.get("tags", kept)))
        }
        if left or not item:
            paths[path] = left
        else:
            del paths[path]


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in other.items():
        if name not in into:
            into[name] = value
        elif _both(dict, into[name], value):
            _merge(into[name], value)
        elif _both(list, into[name], value):
            into[name] = [*into[name], *(each for each in value if each not in into[name])]


def _both(kind: type, first: object, second: object) -> bool:
    return isinstance(first, kind) and isinstance(second, kind)
