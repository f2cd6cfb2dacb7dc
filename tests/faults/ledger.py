"""A server that writes down what it runs, as a process that the tests start and kill.

python -m tests.faults.ledger <file> grpc|link <where to listen>

It says where it listens. Each call adds its idempotency key as a line to the file before it is
answered, so the file says what ran here, however this process ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace

from forge.captioner.v1 import CollectRequest, CollectResponse
from protoplane_base import Context, MethodKind, MethodSpec, Service, ServiceSpec
from protoplane_server import Options, Server

ENTER: MethodSpec[CollectRequest, CollectResponse] = MethodSpec(
    service="tests.faults.v1.LedgerService",
    name="Enter",
    python_name="enter",
    kind=MethodKind.UNARY,
    request=CollectRequest,
    response=CollectResponse,
)
"""No idempotency level: only its key makes a call safe to repeat."""

_PAUSE_S = 0.005


def entered(text: str) -> CollectResponse:
    """The right answer to a text."""
    return CollectResponse(text=text[::-1], chunks=len(text))


class Ledger(Service):
    """Enters each key into a file."""

    spec = ServiceSpec(
        full_name=ENTER.service, component="tests/ledger", file="", methods={ENTER.name: ENTER}
    )

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def enter(self, request: CollectRequest, ctx: Context) -> CollectResponse:
        """Write, then take a while: a kill in between is what makes a call run again."""
        os.write(self._file, f"{ctx.metadata['idempotency-key']!s}\n".encode())
        await asyncio.sleep(_PAUSE_S)
        return entered(request.text)


async def serve(file: str, door: str, where: str) -> None:
    """Serve until the process is killed."""
    options = Options(grpc=None, http=None)
    options = replace(options, **({"link": (where,)} if door == "link" else {"grpc": where}))
    async with Server(Ledger(file), options) as server:
        print(server.grpc_address or server.link_addresses[0], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    _, file, door, where = sys.argv
    asyncio.run(serve(file, door, where))
