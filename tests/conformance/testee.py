"""The program that the conformance runner tests: the generated models behind its protocol.

    testee.py GENERATED

`GENERATED` is the folder that holds the code generated from the runner's schemas. The runner writes
a little-endian 32-bit length and a `ConformanceRequest` to stdin, and reads a `ConformanceResponse`
in the same framing from stdout, until it closes the pipe. The payloads go through the models only.
"""

from __future__ import annotations

import importlib
import struct
import sys
import traceback
from typing import Any, BinaryIO, cast

from pydantic import ValidationError

from protoplane_base import DecodeError, Message, message_type

PACKAGES = (
    "protobuf_test_messages.proto2",
    "protobuf_test_messages.proto3",
    "protobuf_test_messages.editions",
    "protobuf_test_messages.editions.proto2",
    "protobuf_test_messages.editions.proto3",
)

LENGTH = struct.Struct("<I")


# `protocol` is the module conformance_pb2: generated in the same run, so no type checker knows it.


def answer(request: Any, protocol: Any) -> Any:
    """Does what one request asks for; a fault of the models themselves is a `runtime_error`."""
    response = protocol.ConformanceResponse()
    asked_for = {request.WhichOneof("payload"), request.requested_output_format}
    if not asked_for <= {"protobuf_payload", "json_payload", protocol.PROTOBUF, protocol.JSON}:
        response.skipped = "only the binary and the JSON format are supported"
        return response
    try:
        try:
            message = parse(request, protocol)
        except (DecodeError, ValidationError) as error:
            response.parse_error = str(error)
            return response
        try:
            if request.requested_output_format == protocol.PROTOBUF:
                response.protobuf_payload = message.to_bytes()
            else:
                response.json_payload = message.model_dump_json()
        except ValueError as error:
            response.serialize_error = str(error)
    except Exception:  # noqa: BLE001
        response.runtime_error = traceback.format_exc(limit=-4)
    return response


def parse(request: Any, protocol: Any) -> Message:
    """The message in the request's payload."""
    model = cast("type[Message]", message_type(request.message_type))
    if request.WhichOneof("payload") == "protobuf_payload":
        return model.from_bytes(request.protobuf_payload)
    if request.test_category == protocol.JSON_IGNORE_UNKNOWN_PARSING_TEST:
        return model.model_validate_json(request.json_payload, extra="ignore")
    return model.model_validate_json(request.json_payload)


def serve(requests: BinaryIO, responses: BinaryIO, protocol: Any) -> None:
    """Answers requests until the runner closes the pipe."""
    while prefix := requests.read(LENGTH.size):
        (length,) = LENGTH.unpack(prefix)
        request = protocol.ConformanceRequest.FromString(requests.read(length))
        response = answer(request, protocol).SerializeToString()
        responses.write(LENGTH.pack(len(response)) + response)
        responses.flush()


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    for package in PACKAGES:
        importlib.import_module(package)
    protocol = importlib.import_module("conformance.conformance_pb2")
    responses = sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not break the framing
    serve(sys.stdin.buffer, responses, protocol)


if __name__ == "__main__":
    main()
