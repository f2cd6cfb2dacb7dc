"""The event stream as clients of others read it: curl, httpx-sse, and Node as a Mercure client."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse
from tests.certificates import make_certificates, needs_openssl
from tests.interop.chromium import Chromium
from tests.interop.events import FINISHED, KEYS, Seen, publish
from tests.interop.programs import Component, Program
from tests.interop.tools import node_and_npm, tool_or_skip

HUB = "/.well-known/mercure"


def test_httpx_sse_sees_events_and_nothing_else(component: Component) -> None:
    ids = publish(component, 1, 2)
    with httpx.Client(base_url=component.url, timeout=20) as http:
        seen: list[str] = []
        for _ in range(2):
            # It resumes as its documentation says to: by the id of the last event.
            headers = {"last-event-id": seen[-1] if seen else ids[0]}
            with connect_sse(http, "GET", f"/events/{KEYS}", headers=headers) as source:
                stream = source.iter_sse()
                opening = next(stream)
                assert (opening.data, opening.id, opening.retry) == (
                    "", headers["last-event-id"], 1000
                )  # fmt: skip
                if not seen:
                    event = next(stream)
                    assert (event.event, event.json()["words"]) == (FINISHED, 2)
                    seen.append(event.id)
        [third] = publish(component, 3)
        headers = {"last-event-id": seen[-1]}
        with connect_sse(http, "GET", f"/events/{KEYS}", headers=headers) as source:
            stream = source.iter_sse()
            next(stream)
            assert next(stream).id == third


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
def test_curl(protocol: str) -> None:
    curl = tool_or_skip("curl")
    http2 = protocol != "--http1.1"
    with Component(with_grpc=False, http2=http2) as component:
        [first] = publish(component, 1)
        url = f"{component.url}/events/{KEYS}?after=earliest&envelope=cloudevents"
        command = [curl, "-sSN", protocol, "-D", "-", "--max-time", "60", url]
        with Program(command) as program:
            program.until(lambda lines: any(line.startswith("data: ") for line in lines))
            [second] = publish(component, 2)
            lines = program.until(
                lambda lines: sum(line.startswith("data: ") for line in lines) == 2
            )
            assert lines[0].startswith("HTTP/2 200" if http2 else "HTTP/1.1 200")
            found = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
            assert [(each["id"], each["data"]["words"]) for each in found] == [
                (first, 1), (second, 2)
            ]  # fmt: skip


def test_node_as_a_mercure_client(component: Component, modules: Path) -> None:
    node, _ = node_and_npm()
    topic = "https://example.com/books/{id}"
    url = f"{component.url}{HUB}?{httpx.QueryParams(topic=topic)}"
    with Program([node, str(modules / "events.mjs"), url, "message", "changed"]) as program:
        program.until(lambda lines: len(lines) == 1)  # It is open.
        ids: list[str] = []
        for number, kind in ((1, ""), (2, "changed")):
            update = {
                "topic": f"https://example.com/books/{number}",
                "data": json.dumps({"words": number}),
                "type": kind,
            }
            answer = httpx.post(f"{component.url}{HUB}", data=update)
            assert answer.status_code == 200, answer.text
            ids.append(answer.text)
        lines = program.until(lambda lines: len(lines) == 3)
        seen = [Seen.of(json.loads(line)) for line in lines[1:]]
        assert [(event.type, event.id, event.number) for event in seen] == [
            ("message", ids[0], 1), ("changed", ids[1], 2)
        ]  # fmt: skip


@needs_openssl
def test_a_browser_has_many_streams_over_http2(chromium: Chromium, tmp_path: Path) -> None:
    """Over HTTP/1.1 the seventh would wait for ever."""
    files = make_certificates(tmp_path)
    count = 20
    command = [
        *(sys.executable, "-c", "from protoplane_runtime.cli import main; main()", "serve"),
        *("protoplane_components.captioner:Captioner", "--http-only", "--no-link", "--http2"),
        *("--http", "0", "--engine", "memory:"),
        *("--tls-cert", str(files / "server.pem"), "--tls-key", str(files / "server.key")),
    ]
    with Program(command, errors_too=True) as program:
        lines = program.until(lambda lines: any("HTTP at " in line for line in lines))
        url = lines[-1].rpartition("HTTP at ")[2]
        with chromium.open(f"{url}/docs") as page:
            page.run(f"""
                window.opened = 0; window.seen = 0;
                window.sources = Array.from({{ length: {count} }}, () => {{
                  const source = new EventSource("/events/{KEYS}?envelope=cloudevents");
                  source.onopen = () => opened++;
                  source.onmessage = () => seen++;
                  return source;
                }});
            """)
            page.until(f"opened === {count}", 30)
            body = '{"requestId": "1", "words": 1}'
            page.run(f"""fetch("/events/forge/captions/1", {{ method: "POST", body: '{body}' }})""")
            page.until(f"seen === {count}", 30)
            protocols = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
            assert page.run(protocols) == "h2"
        assert program.end() == 0
