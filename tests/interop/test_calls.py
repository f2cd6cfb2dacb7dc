"""What a component does for a caller, asked by the clients of others."""

from __future__ import annotations

import base64
import time
from uuid import uuid4

import httpx
from google.rpc.error_details_pb2 import BadRequest
from tests.interop.callers import Caller, texts
from tests.interop.events import events_of
from tests.interop.programs import Component

from protoplane_base import Code


def test_unary(caller: Caller) -> None:
    outcome = caller.call("ListStyles", {})
    assert (outcome.code, outcome.messages) == (
        Code.OK,
        [{"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}],
    )


def test_server_stream(caller: Caller) -> None:
    asked = {"prompt": "the sea", "maxWords": 7, "seed": "18446744073709551615"}
    outcome = caller.call("Caption", asked)
    assert outcome.code == Code.OK
    assert [message.get("index", 0) for message in outcome.messages] == list(range(7))
    assert texts(outcome.messages) == texts(caller.call("Caption", asked).messages)


def test_client_stream(caller: Caller) -> None:
    outcome = caller.call("Collect", {"text": "a "}, {"text": "słoń "}, {"text": "🐘"})
    assert outcome.messages == [{"text": "a słoń 🐘", "chunks": 3}]
    assert caller.call("Collect").code == Code.OK


def test_bidi(caller: Caller) -> None:
    lines = [{"line": line} for line in ("the sea", "the ship", "the light")]
    outcome = caller.call("Converse", *lines, lockstep=caller.full_duplex)
    assert outcome.code == Code.OK
    assert [message["line"][-1] for message in outcome.messages] == [".", ".", "."]


def test_deadline(caller: Caller) -> None:
    start = time.monotonic()
    outcome = caller.call("Collect", {"text": "a"}, timeout_s=0.2, half_close=False)
    assert outcome.code == Code.DEADLINE_EXCEEDED
    assert 0.15 < time.monotonic() - start < 2


def test_cancellation(caller: Caller, component: Component) -> None:
    before = cancelled(component)
    outcome = caller.call("Converse", {"line": "the sea"}, half_close=False, cancel_after=1)
    assert (outcome.code, len(outcome.messages)) == (Code.CANCELLED, 1)
    deadline = time.monotonic() + 10
    while cancelled(component) == before:
        assert time.monotonic() < deadline, "the handler was not cancelled"
        time.sleep(0.02)


def test_invalid_argument(caller: Caller) -> None:
    outcome = caller.call("Caption", {"prompt": "the sea", "maxWords": 5000})
    assert (outcome.code, outcome.message) == (
        Code.INVALID_ARGUMENT,
        "max_words is 5000; it must be 1 to 1000",
    )


def test_details(caller: Caller) -> None:
    outcome = caller.call("ListStyles", {}, metadata={"x-fail": "1", "x-echo": "still here"})
    assert (outcome.code, outcome.message) == (Code.INVALID_ARGUMENT, "ünfashionable")
    assert (outcome.status.code, outcome.status.message) == (3, "ünfashionable")
    fault = BadRequest()
    assert outcome.status.details[0].Unpack(fault)
    assert fault.field_violations[0].field == "styles[0]"
    assert fault.field_violations[0].description == "not of this season"
    assert outcome.trailers["x-echo"] == "still here"


def test_metadata(caller: Caller) -> None:
    binary = base64.b64encode(bytes(range(256))).decode()
    sent = {"x-echo-text": "three small words", "x-echo-raw-bin": binary}
    outcome = caller.call("ListStyles", {}, metadata=sent)
    assert outcome.code == Code.OK
    assert {name: outcome.trailers.get(name) for name in sent} == sent


def test_the_call_is_known_by_the_callers_name_for_it(caller: Caller, component: Component) -> None:
    name = f"by-{uuid4()}"
    asked = {"prompt": "the sea", "maxWords": 3}
    assert caller.call("Caption", asked, metadata={"x-request-id": name}).code == Code.OK
    (event,) = events_of(component, f"forge/captions/{name}", 1)
    assert event.json["requestId"] == name
    assert event.json["words"] == 3


def test_large_messages(caller: Caller) -> None:
    text = "x" * 4_000_000
    outcome = caller.call("Collect", {"text": text}, {"text": text})
    assert outcome.code == Code.OK
    assert len(outcome.messages[0]["text"]) == 8_000_000


def test_messages_that_are_too_large(caller: Caller) -> None:
    outcome = caller.call("Collect", {"text": "x" * 10_500_000})
    assert outcome.code == Code.RESOURCE_EXHAUSTED
    assert caller.call("ListStyles", {}).code == Code.OK


def cancelled(component: Component) -> float:
    """How many calls of Converse were cancelled."""
    lines = httpx.get(f"{component.url}/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("protoplane_calls_total")
        and 'Converse"' in line
        and 'code="CANCELLED"' in line
    )
