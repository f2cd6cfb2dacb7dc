"""Objects in memory."""

from __future__ import annotations

import pytest
from tests.runtime.object_store_suite import ObjectStoreSuite

from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store


class TestMemoryObjects(ObjectStoreSuite):
    @pytest.fixture
    async def store(self) -> ObjectStore:
        return await open_object_store("memory:")
