"""A server with OpenAI's API that does what the name of the model says."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("echo", "markdown", "endless", "breaks", "cut", "busy")
KEY = "sk-right"
STORY = "# A fox\n\nIt was *red*.\n\n```python\nprint('fox')\n\n\nprint(2)\n```\n\n- one\n\n- two\n"


class ChatServer(ThreadingHTTPServer):
    """It remembers what it was asked.

    Attributes:
        asked: Bodies of the requests.
        keyed: Whether it wants `KEY`.
        hung_up: Set once somebody hung up in the middle of an answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, Any]] = []
        self.keyed = False
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer  # pyright: ignore[reportIncompatibleVariableOverride]  # it is made by one

    def do_GET(self) -> None:
        if not self.path.startswith("/v1/"):
            self._page()
        elif self._allowed():
            listed = [{"id": name, "object": "model"} for name in MODELS]
            self._json(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.startswith("/v1/"):
            self._page()
            return
        if not self._allowed():
            return
        self.server.asked.append(body)
        model = body["model"]
        if model == "busy":
            self._json(429, {"error": {"message": "too many requests"}}, {"retry-after": "7"})
        elif model not in MODELS:
            self._json(404, {"error": {"message": f"there is no model {model}"}})
        else:
            self._stream(model, body["messages"])

    def _stream(self, model: str, messages: list[dict[str, str]]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            for text in self._texts(model, messages):
                self._chunk(model, choices=[{"index": 0, "delta": {"content": text}}])
            if model == "breaks":
                self._send({"error": {"message": "the worker is gone", "code": "unavailable"}})
            if model in ("breaks", "cut"):
                return
            self._chunk(model, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
            self._chunk(model, choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.hung_up.set()

    def _texts(self, model: str, messages: list[dict[str, str]]) -> Iterator[str]:
        if model == "markdown":
            yield from (STORY[at : at + 7] for at in range(0, len(STORY), 7))
        elif model == "endless":
            yield "for "
            ever = threading.Event()
            while not ever.wait(0.01):
                yield "ever "
        else:
            said = " | ".join(f"{each['role']}: {each['content']}" for each in messages)
            yield from (f"{word} " for word in said.split(" "))

    def _chunk(self, model: str, **fields: Any) -> None:
        self._send({"id": "1", "object": "chat.completion.chunk", "model": model, **fields})

    def _send(self, value: object) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _allowed(self) -> bool:
        if self.server.keyed and self.headers.get("authorization") != f"Bearer {KEY}":
            self._json(401, {"error": {"message": "Incorrect API key provided"}})
            return False
        return True

    def _page(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>hello</title>")

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # its name there
        """Nobody reads it."""


@contextmanager
def chat_server() -> Generator[ChatServer]:
    """A server that runs in threads of this process."""
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
