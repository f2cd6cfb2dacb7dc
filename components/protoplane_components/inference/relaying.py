"""``Infer`` where the backend takes requests as they came: in whose words, and how they travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from protoplane.inference.v1 import InferenceService
from protoplane.inference.v1.inference_pb2 import InferRequest, InferResponse
from protoplane_components.inference.conversion import DATA_TYPES, DATATYPES
from protoplane_server.kserve.forms import Form
from protoplane_server.kserve.schema import messages
from protoplane_server.kserve.unread import unread

_METHODS = InferenceService.spec.methods
_NAMES = {int(number): datatype.value for number, datatype in DATATYPES.items()}
_NUMBERS = {datatype.value: number for datatype, number in DATA_TYPES.items()}

UNREAD_SPEC: Final = replace(
    InferenceService.spec,
    methods={**_METHODS, "Infer": unread(_METHODS["Infer"], "infer_unread")},
)
"""The service with an ``Infer`` whose messages may be bytes."""


class InferWording:
    """That of ``Infer``; see `protoplane_server.kserve.relaying.Wording`."""

    def parse(self, data: bytes) -> InferRequest:
        """Decode a request."""
        return InferRequest.FromString(data)

    def asked(self, request: InferRequest) -> Any:
        """The request as KServe has it, where it has neither a priority nor a sequence."""
        if request.priority or request.HasField("sequence"):
            return None
        message = messages.ModelInferRequest(
            model_name=request.model,
            model_version=request.version,
            raw_input_contents=[tensor.contents for tensor in request.inputs],
        )
        for tensor in request.inputs:
            message.inputs.add(
                name=tensor.name, datatype=_NAMES.get(tensor.datatype), shape=tensor.shape
            )
        for name in request.outputs:
            message.outputs.add(name=name)
        return message

    def form(self, request: InferRequest) -> Form:
        """Its form."""

        def encode(contents: Sequence[bytes]) -> bytes:
            for tensor, each in zip(request.inputs, contents, strict=True):
                tensor.contents = each
            return request.SerializeToString()

        return Form(encode, [len(tensor.contents) for tensor in request.inputs])

    def reply(self, model: str, head: Any, contents: Sequence[bytes]) -> bytes:
        """An ``InferResponse``."""
        response = InferResponse(model=model, version=head.model_version)
        for output, each in zip(head.outputs, contents, strict=True):
            response.outputs.add(
                name=output.name,
                datatype=_NUMBERS[output.datatype],
                shape=output.shape,
                contents=each,
            )
        return response.SerializeToString()
