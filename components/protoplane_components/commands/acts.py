"""What the demo shows: one prompt through each door, told as it happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterable

import httpx
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from forge.captioner.v1 import CaptionerClient, CaptionRequest
from protoplane_base import Code, MethodKind, PlaneError
from protoplane_client import HttpChannel, HttpSession, Plane, Received
from protoplane_client.json_calls import http_method
from protoplane_client.sse import EventStreamParser
from protoplane_runtime.engines.interface import Gap

_METHOD = "forge.captioner.v1.CaptionerService/Caption"
_WORDS = 24


class Stage:
    """Where it is shown: what is printed, and how it looks.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0
        self._events = 0
        self._came = asyncio.Event()

    def title(self) -> None:
        """Say what this is."""
        self._console.print(
            Panel(
                Text.assemble(
                    ("Protoplane", "bold cyan"),
                    " serves one component, and one prompt goes to it through three doors.\n",
                    (
                        "The model is a trigram counter made at start from a page of prose; it is ",
                        "dim",
                    ),
                    ("slowed down to one word in 40 ms so that you can watch.", "dim"),
                ),
                border_style="cyan",
                expand=False,
            )
        )

    def taken(self, door: str, wanted: int, used: int) -> None:
        """Say that a port is taken."""
        self._console.print(f"[yellow]port {wanted} is taken; {door} uses {used}[/]")

    def served(self, component: str, grpc: str, http: str, link: str) -> None:
        """Say where the component is."""
        self._console.print(
            Text.assemble(
                ("● ", "green"), (component, "bold"), " is up: gRPC at ", (grpc, "cyan"),
                ", HTTP at ", (http, "cyan"), ", links at ", (link, "cyan"),
            )
        )  # fmt: skip

    async def tell(self, heading: str, how: str, prompt: str, words: AsyncIterable[str]) -> None:
        """Show words as they arrive, then how fast they were."""
        console = self._console
        console.print()
        console.print(Rule(Text.assemble((heading, "bold"), f"  {how}"), align="left", style="dim"))
        console.print(Text(prompt, "bold"), end="")
        self._column = len(prompt)
        start = time.perf_counter()
        first_s, count, seen = 0.0, 0, self._events
        async for word in words:
            first_s = first_s or time.perf_counter() - start
            count += 1
            self._word(word)
        total_s = time.perf_counter() - start
        await self._event_after(seen)
        if self._column:
            console.print()
        self._column = 0
        console.print(
            Text(
                f"{count} chunks; the first after {first_s * 1000:.1f} ms, "
                f"the last after {total_s * 1000:.0f} ms",
                "dim",
            )
        )

    def event(self, event: Received | Gap) -> None:
        """Show an event of the event plane."""
        self._events += 1
        self._came.set()
        if self._column:
            self._console.print()
            self._column = 0
        if isinstance(event, Gap):
            self._console.print(f"[yellow]◆ events were lost before {event.next}[/]")
            return
        name = event.type.rpartition(".")[2]
        self._console.print(
            Text.assemble(
                ("◆ event ", "magenta"), (f"{name} ", "bold magenta"), (event.json, "dim"),
            ),
            soft_wrap=True,
        )  # fmt: skip

    def invitation(self, grpc: str, http: str, *, stays: bool) -> None:
        """Print what to try."""
        body = json.dumps({"prompt": "The sea"})
        lines = (
            ("JSON", f"curl {http}/v1/styles"),
            (
                "a stream",
                (
                    f"curl -N {http}/{_METHOD} -H 'content-type: application/json' "
                    f"-H 'accept: text/event-stream' -d '{body}'"
                ),
            ),
            ("events", f"curl -N '{http}/events/forge/captions/*'"),
            (
                "gRPC",
                f"buf curl --protocol grpc --http2-prior-knowledge -d '{body}' http://{grpc}/{_METHOD}",
            ),
            ("by name", f"protoplane call forge/captioner Caption '{body}'"),
            ("the API", f"{http}/docs"),
        )
        self._console.print()
        heading = "Try it" if stays else "To try it, run it without --once"
        self._console.print(Rule(Text(heading, "bold"), align="left", style="dim"))
        # Not in a table's cells: a line that is to be copied must not be broken.
        for name, line in lines:
            self._console.print(
                Text.assemble((f"{name:<10}", "dim"), (line, "green")), soft_wrap=True
            )
        if stays:
            self._console.print(Group("", Text("Ctrl-C ends it. Events show up here.", "dim")))

    def goodbye(self) -> None:
        """Say that it is over."""
        self._console.print(Text("stopped", "dim"))

    async def _event_after(self, seen: int) -> None:
        """Wait for the event that each story ends with; it comes by another connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self._events == seen:
                    self._came.clear()
                    await self._came.wait()

    def _word(self, word: str) -> None:
        if self._column + len(word) > min(self._console.width, 100):
            self._console.print()
            self._column, word = 0, word.lstrip()
        self._console.print(Text(word), end="", soft_wrap=True)
        self._column += len(word)


async def by_grpc(stage: Stage, plane: Plane, prompt: str) -> None:
    """Call through gRPC with the generated client."""
    client = CaptionerClient(plane)
    request = CaptionRequest(prompt=prompt, max_words=_WORDS)

    async def words() -> AsyncIterable[str]:
        async for chunk in client.caption(request, timeout_s=30):
            yield chunk.text

    await stage.tell("gRPC", "the generated Python client", prompt, words())


async def by_json(stage: Stage, http_url: str, prompt: str) -> None:
    """Call through HTTP with nothing but JSON."""
    session = HttpSession(http_url)
    method = http_method(_METHOD, MethodKind.SERVER_STREAM)
    body = json.dumps({"prompt": prompt, "maxWords": _WORDS})

    async def words() -> AsyncIterable[str]:
        channel = HttpChannel(session, encoding="json")
        async for line in channel.server_stream(method, body, {"timeout_s": 30}):
            yield json.loads(line)["text"]

    try:
        await stage.tell("JSON", "Connect streaming over HTTP", prompt, words())
    finally:
        await session.aclose()


async def by_sse(stage: Stage, http_url: str, prompt: str) -> None:
    """Call through HTTP as a browser would: server-sent events."""
    body = {"prompt": prompt, "maxWords": _WORDS, "style": "STYLE_VIVID"}

    async def words() -> AsyncIterable[str]:
        parser = EventStreamParser()
        async with (
            httpx.AsyncClient(timeout=30) as client,
            client.stream(
                "POST",
                f"{http_url}/{_METHOD}",
                json=body,
                headers={"accept": "text/event-stream"},
            ) as response,
        ):
            async for data in response.aiter_raw():
                for event in parser.feed(data):
                    if event.type == "error":
                        raise PlaneError(Code.UNKNOWN, event.data)
                    if event.type != "end":
                        yield json.loads(event.data)["text"]

    await stage.tell("SSE", "text/event-stream, in the vivid style", prompt, words())
