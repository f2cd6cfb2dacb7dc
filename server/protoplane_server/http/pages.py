"""Pages for people, probes and tools: health, metrics, documents and ``/docs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import resources

from protoplane_base.services import ServiceSpec
from protoplane_server.http.documents import load_document
from protoplane_server.http.state import DoorState

Page = tuple[int, bytes, bytes]
"""Status, content type and body."""

_TEXT = b"text/plain; charset=utf-8"


def pages(state: DoorState, services: Sequence[ServiceSpec]) -> dict[str, Callable[[], Page]]:
    """What makes each page, by path."""

    def healthz() -> Page:
        return 200, _TEXT, b"ok\n"

    def readyz() -> Page:
        if state.dispatcher.draining or state.closing.is_set():
            return 503, _TEXT, b"draining\n"
        return (200, _TEXT, b"ready\n") if state.health() else (503, _TEXT, b"not ready\n")

    def metrics() -> Page:
        return (
            200,
            state.dispatcher.metrics.content_type.encode(),
            state.dispatcher.metrics.render(),
        )

    def document(name: str) -> Callable[[], Page]:
        def page() -> Page:
            found = load_document(services, name)
            if found is None:
                hint = f"no generated package behind this server has {name}; generate it again\n"
                return 404, _TEXT, hint.encode()
            return 200, b"application/json", json.dumps(found, ensure_ascii=False).encode()

        return page

    def docs() -> Page:
        page = resources.files(__package__ or "").joinpath("docs.html").read_bytes()
        return 200, b"text/html; charset=utf-8", page

    return {
        "/healthz": healthz,
        "/readyz": readyz,
        "/metrics": metrics,
        "/openapi.json": document("openapi.json"),
        "/asyncapi.json": document("asyncapi.json"),
        "/docs": docs,
    }
