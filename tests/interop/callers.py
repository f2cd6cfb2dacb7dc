"""Clients of others, as programs that are told a call in JSON and answer with what came of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.rpc.status_pb2 import Status
from tests.interop.programs import Program

from protoplane_base import Code

SERVICE = "forge.captioner.v1.CaptionerService"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call.

    Attributes:
        messages: The answers as ProtoJSON.
        code: How it ended.
        message: What was said about that.
        status: Code, message and details as they came in binary; empty where there are none.
        trailers: Metadata after the answers; binary values in base64.
    """

    messages: list[Any]
    code: Code
    message: str
    status: Status
    trailers: dict[str, str]


class Caller:
    """One client.

    Args:
        name: Which.
        program: What it runs as.
        full_duplex: Whether it can receive while it sends.
    """

    def __init__(self, name: str, program: Program, *, full_duplex: bool = True) -> None:
        self.name = name
        self.full_duplex = full_duplex
        self._program = program

    def call(
        self,
        method: str,
        *requests: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
        timeout_s: float = 0,
        lockstep: bool = False,
        half_close: bool = True,
        cancel_after: int = 0,
    ) -> Outcome:
        """Call a method and wait for the end.

        Args:
            method: Its name in the service.
            *requests: As ProtoJSON.
            metadata: What to send along; binary values in base64.
            timeout_s: Seconds that the call may take, zero for any.
            lockstep: Wait for an answer to each request before the next one.
            half_close: Say that there are no more requests.
            cancel_after: Cancel after so many answers, zero for never.
        """
        answered = len(self._program.lines)
        wanted = {
            "method": method,
            "requests": requests,
            "metadata": metadata or {},
            "timeout_ms": round(timeout_s * 1000),
            "lockstep": lockstep,
            "half_close": half_close,
            "cancel_after": cancel_after,
        }
        self._program.tell(json.dumps(wanted))
        answer = json.loads(self._program.until(lambda lines: len(lines) > answered)[answered])
        return Outcome(
            answer["messages"],
            Code(answer["code"]),
            answer["message"],
            Status.FromString(base64.b64decode(answer["details"])),
            answer["trailers"],
        )


def texts(messages: Sequence[Mapping[str, Any]]) -> str:
    """The texts of some messages, joined."""
    return "".join(message["text"] for message in messages)
