"""What is done in C where that is compiled: `speedups.c`, else `portable.py`, which is slower.

Both do the same; `PROTOPLANE_PURE_PYTHON=1` asks for the latter.
"""

from __future__ import annotations

from os import environ

try:
    if environ.get("PROTOPLANE_PURE_PYTHON"):
        raise ImportError
    from protoplane_components.kv_router import speedups as core
except ImportError:
    from protoplane_components.kv_router import portable as core  # type: ignore[no-redef]

__all__ = ["COMPILED", "core"]

COMPILED = core.__name__.endswith("speedups")
"""Whether C does the work."""
