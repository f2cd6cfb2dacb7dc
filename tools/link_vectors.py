"""Makes the test vectors of the link: tests/runtime/link/vectors/*.json.

    python tools/link_vectors.py          # write them
    python tools/link_vectors.py --check  # see that they are what this makes

docs/link.md says how to read them. They are for whoever implements the link in another language, so
a change of what is in them is a change of the link.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message as PbMessage

from protoplane.v1 import link_pb2
from protoplane_base import Code, PlaneError
from protoplane_runtime.link import headers
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.frames import MORE, PREFIX
from protoplane_runtime.link.settings import Identity, LinkLimits, LinkSettings

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "runtime" / "link" / "vectors"

Vector = dict[str, Any]

HEADERS: dict[str, type[PbMessage]] = {
    "HELLO": link_pb2.Hello,
    "OPEN": link_pb2.Open,
    "CLOSE": link_pb2.Close,
    "CREDIT": link_pb2.Credit,
    "GO_AWAY": link_pb2.GoAway,
}
METHOD = "/forge.captioner.v1.CaptionerService/ListStyles"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LIMITS = LinkLimits(max_frame_bytes=64, call_window_bytes=256, link_window_bytes=1024)
# A Zstandard frame that says its size; written out, for releases of zstd differ in their bytes.
ZSTD_OF_100_A = "28b52ffd206445000010616101003f012c"


def frame(
    name: str, /, call: int = 0, flags: tuple[str, ...] = (), payload: bytes = b"", **header: Any
) -> bytes:
    """One frame, by the names of the schema."""
    number = link_pb2.FrameType.Value(f"FRAME_TYPE_{name}")
    bits = sum(link_pb2.FrameFlag.Value(f"FRAME_FLAG_{flag}") for flag in flags)
    encoded = b""
    if header:
        encoded = ParseDict(header, HEADERS[name]()).SerializeToString(deterministic=True)
    return PREFIX.pack(number, bits, len(encoded), len(payload), call) + encoded + payload


def described(data: bytes) -> list[Vector]:
    """What frames say, as the vectors put it."""
    frames: list[Vector] = []
    while data:
        type_, flags, header_size, payload_size, call = struct.unpack_from(">BBHIQ", data)
        header, payload = data[16 : 16 + header_size], data[16 + header_size :][:payload_size]
        data = data[16 + header_size + payload_size :]
        name = link_pb2.FrameType.Name(type_).removeprefix("FRAME_TYPE_")
        said: Vector = {"type": name}
        names = [
            flag
            for flag in ("END", "MORE", "COMPRESSED")
            if flags & link_pb2.FrameFlag.Value(f"FRAME_FLAG_{flag}")
        ]
        if names:
            said["flags"] = names
        if call:
            said["call"] = call
        if header:
            message = HEADERS[name].FromString(header)
            said["header"] = MessageToDict(message, preserving_proto_field_name=True)
        if payload:
            said["payload"] = payload.hex()
        frames.append(said)
    return frames


def frames() -> list[Vector]:
    """Single frames of every type."""

    def vector(name: str, description: str, data: bytes) -> Vector:
        [said] = described(data)
        return {"name": name, "description": description, "hex": data.hex(), "frame": said}

    everything: dict[str, Any] = {
        "version_min": 1,
        "version_max": 1,
        "limits": {
            "max_frame_bytes": 262144,
            "max_message_bytes": 10485760,
            "call_window_bytes": 262144,
            "link_window_bytes": 16777216,
            "max_calls": 10000,
        },
        "compressions": ["COMPRESSION_ZSTD"],
        "name": "forge/captioner/3fa9c1d2",
        "entities": ["AAECAwQFBgcICQoLDA0ODw=="],
        "token": "secret",
        "agent": "example/1.0",
    }
    metadata = [{"name": "tenant", "text": "blue"}, {"name": "blob-bin", "data": "AAE="}]
    return [
        vector(
            "hello", "The least that a hello says.", frame("HELLO", version_min=1, version_max=1)
        ),
        vector("hello-whole", "A hello with every field.", frame("HELLO", **everything)),
        vector(
            "open-unary",
            "A call with its only request.",
            frame("OPEN", 1, ("END",), b"ask", method=METHOD),
        ),
        vector(
            "open-empty-request",
            "END with no payload: the request is there, and empty.",
            frame("OPEN", 3, ("END",), method=METHOD),
        ),
        vector("open-stream", "A call whose messages follow.", frame("OPEN", 5, method=METHOD)),
        vector(
            "open-whole",
            "An OPEN with every field.",
            frame(
                "OPEN",
                7,
                method=METHOD,
                target="AAECAwQFBgcICQoLDA0ODw==",
                metadata=metadata,
                timeout_us="2500000",
                trace={"traceparent": TRACE, "tracestate": "a=b"},
                idempotency_key="order-17",
            ),
        ),
        vector("message", "A whole message.", frame("MESSAGE", 5, (), b"one")),
        vector("message-part", "A part; more follows.", frame("MESSAGE", 5, ("MORE",), b"o")),
        vector("message-last", "The caller's last message.", frame("MESSAGE", 5, ("END",), b"x")),
        vector(
            "message-compressed",
            "A hundred times 'a', compressed.",
            frame("MESSAGE", 5, ("COMPRESSED",), bytes.fromhex(ZSTD_OF_100_A)),
        ),
        vector("half-close", "The caller has said all.", frame("HALF_CLOSE", 5)),
        vector(
            "close-answer", "Success, and the only answer.", frame("CLOSE", 1, ("END",), b"answer")
        ),
        vector("close-empty", "Success after a stream.", frame("CLOSE", 5)),
        vector("close-trailers", "Success with trailers.", frame("CLOSE", 5, trailers=metadata)),
        vector(
            "close-error",
            "NOT_FOUND with a detail.",
            frame(
                "CLOSE",
                5,
                code=5,
                message="no such style; ask ListStyles",
                details=[{"@type": "type.googleapis.com/google.protobuf.UInt32Value", "value": 7}],
            ),
        ),
        vector(
            "close-unprocessed",
            "No handler saw the call.",
            frame("CLOSE", 5, code=14, message="the server is going away", unprocessed=True),
        ),
        vector("cancel", "The caller gives up.", frame("CANCEL", 5)),
        vector(
            "credit-call", "131,072 bytes more in call 5.", frame("CREDIT", 5, more_bytes=131072)
        ),
        vector(
            "credit-link", "8 MiB more in all calls together.", frame("CREDIT", more_bytes=8388608)
        ),
        vector("ping", "Are you there?", frame("PING", payload=b"\0\0\0\0\0\0\0\1")),
        vector("pong", "Yes.", frame("PONG", payload=b"\0\0\0\0\0\0\0\1")),
        vector(
            "go-away-drain",
            "No new calls; those up to 7 are served.",
            frame(
                "GO_AWAY", message="the server stops", last_call="7", endpoints=["link+tcp://b:1"]
            ),
        ),
        vector(
            "go-away-error",
            "The link ends at once.",
            frame("GO_AWAY", code=3, message="a second hello came"),
        ),
        vector(
            "greatest-call", "The greatest number that a call can have.", frame("CANCEL", 2**64 - 1)
        ),
    ]


def exchanges() -> list[Vector]:
    """What one end is sent, and what must come of it: an answer, or the end of the link."""
    hi = frame("HELLO", version_min=1, version_max=1)
    begin = frame("OPEN", 1, method=METHOD)
    zero = bytes(8)

    def error(name: str, description: str, code: Code, data: bytes, **limits: int) -> Vector:
        return {
            "name": name,
            "description": description,
            "to": "acceptor",
            "limits": limits,
            "hex": data.hex(),
            "error": code.name,
        }

    def fine(name: str, description: str, data: bytes, answer: bytes) -> Vector:
        return {
            "name": name,
            "description": description,
            "to": "acceptor",
            "limits": {},
            "hex": data.hex(),
            "answer": described(answer),
        }

    ping, pong = frame("PING", payload=b"p"), frame("PONG", payload=b"p")
    bad, failed = Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION
    return [
        error(
            "version-too-new",
            "No version in common.",
            failed,
            frame("HELLO", version_min=2, version_max=3),
        ),
        error("version-missing", "A hello without a version.", failed, frame("HELLO")),
        error("no-hello", "A call before the hello.", bad, begin),
        error("second-hello", "One hello is enough.", bad, hi + hi),
        error(
            "hello-garbage",
            "A header that is no message.",
            bad,
            b"\1\0\0\2\0\0\0\0" + zero + b"\xff\xff",
        ),
        error(
            "frame-too-large",
            "A payload of 4 GB is refused by its prefix.",
            bad,
            hi + b"\3\0\0\0\xff\xff\xff\xff" + zero,
        ),
        error("call-even", "Numbers of calls are odd.", bad, hi + frame("OPEN", 2, method=METHOD)),
        error("call-again", "A number is used once.", bad, hi + begin + begin),
        error(
            "call-back", "Numbers of calls grow.", bad, hi + frame("OPEN", 3, method=METHOD) + begin
        ),
        error(
            "call-unknown",
            "A message of a call that never was.",
            bad,
            hi + begin + frame("MESSAGE", 3),
        ),
        error(
            "credit-unknown",
            "Credit for a call that never was.",
            bad,
            hi + frame("CREDIT", 9, more_bytes=1),
        ),
        error(
            "ping-too-large",
            "A ping carries 64 bytes at most.",
            bad,
            hi + frame("PING", payload=bytes(65)),
        ),
        error(
            "call-window",
            "A third message, and the window was full after the second.",
            bad,
            hi + begin + frame("MESSAGE", 1, (), bytes(36)) * 3,
            call_window_bytes=200,
        ),
        error(
            "link-window",
            "The same in two calls, where the window is the link's.",
            bad,
            hi
            + begin
            + frame("OPEN", 3, method=METHOD)
            + frame("MESSAGE", 1, (), bytes(36)) * 2
            + frame("MESSAGE", 3, (), bytes(36)),
            link_window_bytes=200,
        ),
        error(
            "go-away-code",
            "The other end ends the link, for a reason.",
            Code.INTERNAL,
            hi + frame("GO_AWAY", code=13, message="a fault"),
        ),
        fine(
            "unknown-type",
            "A frame of type 99 is skipped.",
            hi + b"\x63\xff\0\1\0\0\0\1" + zero + b"hp" + ping,
            pong,
        ),
        fine(
            "unknown-type-first",
            "Even before the hello.",
            b"\x63\0\0\0\0\0\0\0" + zero + hi + ping,
            pong,
        ),
        fine(
            "unknown-flags",
            "Bits that have no meaning have none.",
            hi + b"\x08\xf8\0\0\0\0\0\1" + zero + b"p",
            pong,
        ),
        fine(
            "late-frames",
            "What comes after the end of a call is dropped.",
            hi
            + begin
            + frame("CANCEL", 1)
            + frame("CANCEL", 1)
            + frame("MESSAGE", 1, (), b"x")
            + frame("HALF_CLOSE", 1)
            + frame("CREDIT", 1, more_bytes=1)
            + ping,
            pong,
        ),
        fine(
            "drain-of-the-caller",
            "A caller that goes away finishes what it has.",
            hi + frame("GO_AWAY", message="bye") + ping,
            pong,
        ),
    ]


class Call(LinkCall):
    """A call that does nothing by itself."""


class Conversation:
    """Two ends that talk, and what they say."""

    def __init__(self) -> None:
        self.taken: list[LinkCall] = []
        caller = Identity(name="forge/app/1", agent="example/1.0")
        self.caller = Caller(settings(caller), wake=_nobody)
        self.acceptor = Acceptor(
            settings(Identity(name="forge/captioner/2")), wake=_nobody, accept=self._accept
        )
        self.steps: list[Vector] = []

    def _accept(self, _header: bytes, _request: bytes | None) -> LinkCall:
        self.taken.append(Call())
        return self.taken[-1]

    def say(self, description: str) -> None:
        """Send what the ends have to say, and write it down."""
        while True:
            said = False
            for name, source, sink in (
                ("caller", self.caller, self.acceptor),
                ("acceptor", self.acceptor, self.caller),
            ):
                data = source.take()
                if data:
                    said = True
                    self.steps.append(
                        {
                            "from": name,
                            "description": description,
                            "hex": data.hex(),
                            "frames": described(data),
                        }
                    )
                    sink.received(data)
            if not said:
                return

    def open(self, request: bytes | None, **metadata: str) -> LinkCall:
        """The caller opens a call."""
        call = Call()
        self.caller.open(call, headers.encode_open(METHOD, metadata, 2.5), request)
        return call


def settings(identity: Identity) -> LinkSettings:
    """Small limits, so that the conversation meets them."""
    return LinkSettings(identity=identity, limits=LIMITS, compress_from_bytes=None)


def _nobody() -> None:
    """Nobody waits to be woken."""


def conversation() -> Vector:
    """A whole conversation, both ways."""
    talk = Conversation()
    caller, acceptor = talk.caller, talk.acceptor
    talk.say("hellos")
    talk.open(b"ask", tenant="blue", traceparent=TRACE)
    talk.say("a unary call")
    acceptor.close(talk.taken[0], b"", b"answer")
    talk.say("its answer")
    talk.open(b"", **{"idempotency-key": "order-17"})
    talk.say("a unary call with a key")
    acceptor.fail(talk.taken[1], PlaneError(Code.NOT_FOUND, "no such style"), {"hint": "blue"})
    talk.say("its failure, with a trailer")
    stream = talk.open(None)
    caller.send_part(stream, b"one", 0)
    caller.send_part(stream, b"x" * 64, MORE)
    caller.send_part(stream, b"y" * 10, 0)
    caller.half_close(stream)
    talk.say("a stream of two messages, the second in two parts")
    far = talk.taken[2]
    acceptor.next_message(far)
    acceptor.next_message(far)
    talk.say("credit, for half of the call's window was taken")
    acceptor.send_part(far, b"first", 0)
    acceptor.send_part(far, b"second", 0)
    acceptor.close(far, b"", None)
    talk.say("two answers and the end")
    caller.next_message(stream)
    caller.next_message(stream)
    talk.say("answers that were taken")
    given_up = talk.open(b"long")
    talk.say("a call that takes long")
    acceptor.send_part(talk.taken[3], b"late", 0)
    late = acceptor.take()
    caller.cancel(given_up)
    talk.say("it is given up, and an answer crosses")
    talk.steps.append(
        {
            "from": "acceptor",
            "description": "the answer that crossed",
            "hex": late.hex(),
            "frames": described(late),
        }
    )
    caller.received(late)
    caller.ping()
    talk.say("a ping")
    kept = talk.open(b"last")
    talk.say("the last call")
    acceptor.drain("the server stops", ("link+tcp://other:50052",))
    talk.say("a drain")
    acceptor.close(talk.taken[4], b"", b"done")
    talk.say("the last call is served")
    if not kept.ended or caller.open_calls or acceptor.open_calls:
        raise AssertionError("the conversation is not over")
    return {
        "name": "conversation",
        "description": "Two ends with max_frame_bytes 64, call_window_bytes 256 and "
        "link_window_bytes 1024.",
        "steps": talk.steps,
    }


def vectors() -> dict[str, str]:
    """All files, by name."""
    made = {"frames": frames(), "exchanges": exchanges(), "conversation": conversation()}
    return {
        f"{name}.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        for name, content in made.items()
    }


def main() -> int:
    """Write the vectors, or see that they are current."""
    parser = argparse.ArgumentParser(description="Make the test vectors of the link.")
    parser.add_argument("--check", action="store_true", help="only see that they are current")
    check: bool = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    old = [
        name
        for name, text in vectors().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    if check and old:
        print(f"not current: {', '.join(old)}; run python tools/link_vectors.py", file=sys.stderr)
        return 1
    for name, text in vectors().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
