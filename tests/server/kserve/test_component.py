"""The inference component, seen through the protocol."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tests.server.kserve.models import Models

from protoplane.inference.v1 import InferenceService, ModelStatusChanged
from protoplane_components.inference import Inference
from protoplane_runtime.engines.interface import Start
from protoplane_server import Options, Server
from protoplane_server.kserve.offering import kserve_services

pytestmark = pytest.mark.anyio


async def test_a_model_that_is_unloaded_and_loaded_again() -> None:
    make: Any = triton.InferenceServerClient
    options = Options(grpc="127.0.0.1:0", http=None)
    async with (
        Server(Inference("embedded:"), options) as server,
        make(server.grpc_address) as client,
    ):
        await client.unload_model("lexical")
        assert not await client.is_model_ready("lexical")
        await client.load_model("lexical")
        texts: Any = triton.InferInput("TEXT", [1], "BYTES")
        texts.set_data_from_numpy(np.array([b"a plane"], np.object_))
        result = await client.infer("lexical", [texts])
        assert result.as_numpy("EMBEDDING").shape == (1, 256)
        # The planes were told, as by the component's own rpcs.
        batch = await anext(server.events.read(["*/*/models/lexical"], after=Start.EARLIEST))
        payloads = [getattr(event, "json", "{}") for event in batch]
        states = [ModelStatusChanged.model_validate_json(each).state.name for each in payloads]
        assert [each.removeprefix("MODEL_STATE_") for each in states][-4:] == [
            "UNLOADING",
            "UNLOADED",
            "LOADING",
            "LOADED",
        ]


def test_components_that_serve_no_models_and_several_that_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert kserve_services([InferenceService()]) == ()
    first, second = Models(), Models()
    with caplog.at_level(logging.WARNING):
        [service] = kserve_services([first, InferenceService(), second])
    assert "Models, Models all serve models" in caplog.text
    assert service.protocol == "kserve.v2"
