"""curl and ``buf curl``: what a person types."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.interop.callers import SERVICE, texts
from tests.interop.events import FINISHED
from tests.interop.programs import Component, Program
from tests.interop.tools import BUILD, tool_or_skip

JSON = ("-H", "content-type: application/json")


def curl(*arguments: str) -> str:
    """What curl prints."""
    command = [tool_or_skip("curl"), "--silent", "--show-error", "--max-time", "20", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def buf_curl(*arguments: str) -> tuple[int, list[Any], str]:
    """The exit code of ``buf curl``, the messages that it prints, and its errors."""
    done = subprocess.run(
        [tool_or_skip("buf"), "curl", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BUF_CACHE_DIR": str(BUILD / "buf")},
    )
    messages: list[Any] = []
    decoder, rest = json.JSONDecoder(), done.stdout.strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        messages.append(message)
        rest = rest[end:].strip()
    return done.returncode, messages, done.stderr


class Test_curl:
    def test_unary(self, component: Component) -> None:
        answer = curl("-d", "{}", *JSON, f"{component.url}/{SERVICE}/ListStyles")
        assert json.loads(answer) == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}

    def test_a_route(self, component: Component) -> None:
        answer = json.loads(curl(f"{component.url}/v1/styles"))
        assert answer == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}

    def test_a_fault_names_the_field(self, component: Component) -> None:
        answer = curl(
            *("-d", '{"prompt": "a", "maxWords": "many"}', *JSON, "-w", "\n%{http_code}"),
            *("-H", "accept: text/event-stream", f"{component.url}/{SERVICE}/Caption"),
        )
        body, _, status = answer.rpartition("\n")
        assert status == "400"
        assert json.loads(body)["code"] == "invalid_argument"
        assert "maxWords" in json.loads(body)["message"]

    def test_an_unknown_method(self, component: Component) -> None:
        answer = curl("-d", "{}", *JSON, f"{component.url}/{SERVICE}/Paint", "-w", "\n%{http_code}")
        assert answer.endswith("\n404")
        assert "ListStyles" in answer

    def test_server_sent_events(self, component: Component) -> None:
        text = curl(
            *("-N", "-d", '{"prompt": "the sea", "maxWords": 4}', *JSON),
            *("-H", "accept: text/event-stream", f"{component.url}/{SERVICE}/Caption"),
        )
        *chunks, end, rest = text.split("\n\n")
        assert [json.loads(each.removeprefix("data: ")).get("index", 0) for each in chunks] == [
            0,
            1,
            2,
            3,
        ]
        assert end.splitlines()[0] == "event: end"
        assert rest == ""

    def test_published_events(self, component: Component) -> None:
        command = [tool_or_skip("curl"), "-sN", f"{component.url}/events/forge/**"]
        with Program(command) as listener:
            listener.until(lambda lines: any(line.startswith("retry: ") for line in lines))
            curl(
                *("-d", '{"prompt": "the sea", "maxWords": 4}', *JSON),
                *("-H", "accept: text/event-stream", "-H", "x-request-id: from-curl"),
                f"{component.url}/{SERVICE}/Caption",
            )
            lines = listener.until(lambda lines: any(line.startswith("data: ") for line in lines))
        last = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        assert last["event"] == FINISHED
        assert last["key"] == "forge/captions/from-curl"
        assert json.loads(last["data"])["words"] == 4
        assert last["id"].partition("-")[2].isdigit()


@pytest.fixture(params=["grpc by reflection", "grpc", "connect", "grpcweb"])
def target(request: pytest.FixtureRequest, component: Component, descriptors: Path) -> list[str]:
    """How buf is told to call: the protocol, where the schema is, and the URL last."""
    protocol, _, reflection = request.param.partition(" ")
    options = ["--protocol", protocol]
    if not reflection:
        options += ["--schema", str(descriptors)]
    if protocol == "grpc":
        options.append("--http2-prior-knowledge")
    return [*options, f"http://{component.grpc}" if protocol == "grpc" else component.url]


class Test_buf_curl:
    def test_unary(self, target: list[str]) -> None:
        code, messages, errors = self.call(target, "ListStyles", {})
        assert (code, errors) == (0, "")
        assert messages == [{"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}]

    def test_server_stream(self, target: list[str]) -> None:
        code, messages, errors = self.call(
            target, "Caption", {"prompt": "the sea", "maxWords": 5, "seed": "7"}
        )
        assert (code, errors, len(messages)) == (0, "", 5)
        assert texts(messages)

    def test_client_stream(self, target: list[str]) -> None:
        code, messages, errors = self.call(target, "Collect", {"text": "a"}, {"text": "b"})
        assert (code, errors) == (0, "")
        assert messages == [{"text": "ab", "chunks": 2}]

    def test_bidi(self, target: list[str]) -> None:
        if "grpc" not in target:
            # Over plain text buf speaks HTTP/2 for these, and the HTTP door is HTTP/1.1.
            pytest.skip(f"buf curl wants HTTP/2 for a bidi stream over {target[1]}")
        code, messages, errors = self.call(target, "Converse", {"line": "a"}, {"line": "b"})
        assert (code, errors, len(messages)) == (0, "", 2)

    def test_invalid_argument(self, target: list[str]) -> None:
        code, messages, errors = self.call(target, "Caption", {"prompt": " "})
        assert code == 3 * 8
        assert messages == []
        assert json.loads(errors) == {
            "code": "invalid_argument",
            "message": "prompt is empty; give a few words",
        }

    def call(self, target: list[str], method: str, *requests: Any) -> tuple[int, list[Any], str]:
        *options, url = target
        data = "\n".join(json.dumps(request) for request in requests)
        return buf_curl(*options, "-d", data, f"{url}/{SERVICE}/{method}")
