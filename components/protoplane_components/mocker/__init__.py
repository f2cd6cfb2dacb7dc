"""Workers without models, that take their time and keep their caches as LLM engines do.

Served, one is a worker to clients and to the KV router:

    protoplane serve protoplane_components.mocker:mocker

As a library, hundreds run in one process on a virtual clock (`Fleet`), and traces are replayed with
them (`replay`, ``protoplane router replay``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from protoplane_components.mocker.blocks import BlockPool, CacheObserver
from protoplane_components.mocker.engine import (
    EngineOptions,
    EngineStats,
    MockEngine,
    MockRequest,
    Written,
)
from protoplane_components.mocker.fleet import Fleet, Happened
from protoplane_components.mocker.timing import PolynomialTiming, TimingModel

if TYPE_CHECKING:
    from protoplane_components.mocker.component import Mocker, mocker

__all__ = [
    "BlockPool",
    "CacheObserver",
    "EngineOptions",
    "EngineStats",
    "Fleet",
    "Happened",
    "MockEngine",
    "MockRequest",
    "Mocker",
    "PolynomialTiming",
    "TimingModel",
    "Written",
    "mocker",
]


def __getattr__(name: str) -> Any:
    # What is served needs the server; the simulation does not.
    if name in ("Mocker", "mocker"):
        return getattr(import_module("protoplane_components.mocker.component"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
