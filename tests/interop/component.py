"""The component that the clients of this folder call; run as a program, with two ports."""

from __future__ import annotations

import sys

from google.rpc.error_details_pb2 import BadRequest

from forge.captioner.v1 import ListStylesRequest, ListStylesResponse
from protoplane_base import Code, PlaneError
from protoplane_components.captioner import Captioner
from protoplane_server import Context, serve


class Frank(Captioner):
    """The captioner; its unary rpc also sends metadata back, and fails when it is asked to."""

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        for name, value in ctx.metadata.items():
            if name.startswith("x-echo"):
                ctx.set_trailer(name, value)
        if "x-fail" in ctx.metadata:
            fault = BadRequest.FieldViolation(field="styles[0]", description="not of this season")
            raise PlaneError(
                Code.INVALID_ARGUMENT, "ünfashionable", [BadRequest(field_violations=[fault])]
            )
        return await super().list_styles(request, ctx)


if __name__ == "__main__":
    grpc, http = (None if port == "-" else int(port) for port in sys.argv[1:3])
    http2 = "http2" in sys.argv[3:]
    serve(Frank(pause_s=0.0), grpc=grpc, http=http, http2=http2, grace_s=1.0)
