"""The hashing module both ways: with what is compiled, and without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import pytest

NAME = "protoplane_components.kv_router.hashing"
WAYS = ["compiled", "portable"]


def loaded(way: str) -> Iterator[ModuleType]:
    """The module as a process has it that was started so; for a fixture."""
    spec = find_spec(NAME)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTOPLANE_PURE_PYTHON", "" if way == "compiled" else "1")
        spec.loader.exec_module(module)
    if way == "compiled" and not module.COMPILED:
        pytest.skip("speedups.c is not compiled here: no C compiler, or none of Python's headers")
    assert module.COMPILED is (way == "compiled")
    yield module
