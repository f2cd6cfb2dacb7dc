"""What a backend does whose server speaks OpenAI's API: no tensors, and no loading of models."""

from __future__ import annotations

import pytest
from tests.server.backends.backend_suite import BackendSuite

from protoplane_server.backends.interface import Backend
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Tensor

_OF_TENSORS = frozenset({
    "test_infer_gives_what_it_declares",
    "test_infer_gives_the_outputs_that_are_wanted",
    "test_tensors_that_a_model_does_not_take",
    "test_stream_gives_several_results",
    "test_lists_what_metadata_says",
})  # fmt: skip
_OF_LOADING = frozenset({"test_unloading_and_loading"})


class OpenaiSuite(BackendSuite):
    """The cases for such a server; define a fixture that sets `url`.

    Attributes:
        url: The backend.
    """

    url: str

    @pytest.fixture(autouse=True)
    def of_texts(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname in _OF_TENSORS:
            pytest.skip("it is about tensors, and the API has texts and vectors")
        loads = request.node.name.endswith(("[unload]", "[load]"))
        if loads or request.node.originalname in _OF_LOADING:
            pytest.skip("it is about loading, and the server chooses its models")

    def make(self) -> Backend:
        return open_backend(self.url)

    def inputs(self) -> list[Tensor]:
        return []

    def stream_inputs(self) -> list[Tensor]:
        return []
