"""The hashing module both ways: with what is compiled, and without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest

CORE = "protoplane_components.kv_router.core"
NAME = "protoplane_components.kv_router.hashing"
WAYS = ["compiled", "portable"]


def loaded(way: str) -> Iterator[ModuleType]:
    """The module as a process has it that was started so; for a fixture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTOPLANE_PURE_PYTHON", "" if way == "compiled" else "1")
        core = _made(CORE)
        patch.setitem(sys.modules, CORE, core)
        module = _made(NAME)
    if way == "compiled" and not core.COMPILED:
        pytest.skip("speedups.c is not compiled here: no C compiler, or none of Python's headers")
    assert core.COMPILED is (way == "compiled")
    yield module


def _made(name: str) -> ModuleType:
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
