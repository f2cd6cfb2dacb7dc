"""A site of several components, which the tests look at; run as a program with a folder.

It prints where each is, and takes words on its standard input: ``join`` and ``leave`` let a guest
come and go, ``away`` and ``back`` stop another and start it again at the same place, and ``flood``
publishes more events than the console shows.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack

from forge.captioner.v1 import CaptionFinished
from protoplane_components.captioner import Captioner
from protoplane_components.gateway import Gateway
from protoplane_components.gateway.settings import GatewaySettings
from protoplane_components.inference import Inference
from protoplane_components.jobs import Jobs
from protoplane_server import Options, Server

TYPE = "forge.captioner.v1.CaptionFinished"
KEY = "sesame-street-123-is-long-enough"
TOKENS = {"open-sesame": "alibaba"}


async def main(engine: str) -> None:
    def options(name: str, port: int = 0, **more: object) -> Options:
        http = f"127.0.0.1:{port}"
        return Options(
            **{"grpc": None, "http": http, "engine": engine, "grace_s": 0.2, "name": name, **more}  # type: ignore[arg-type]
        )

    def told(word: str, server: Server) -> None:
        print(word, server.http_url, flush=True)

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(
            Server(
                [Captioner(), Jobs(), Inference("embedded:")],
                options("forge/captioner/site", planes=True, stats_interval_s=0.5),
            )
        )
        guarded = await stack.enter_async_context(
            Server(Captioner(), options("forge/guarded/one", tokens=TOKENS))
        )
        gateway = await stack.enter_async_context(
            Server(
                Gateway(GatewaySettings(upstream="forge/captioner/site", api_keys={"me": KEY})),
                options("forge/gateway/one"),
            )
        )
        alone = await stack.enter_async_context(Server(Captioner(), Options(grpc=None, http=0)))
        fickle = AsyncExitStack()
        stack.push_async_callback(fickle.aclose)
        leaving = await fickle.enter_async_context(Server(Captioner(), options("forge/fickle/one")))
        port = int(str(leaving.http_url).rpartition(":")[2])
        for word, server in (
            ("guarded", guarded),
            ("gateway", gateway),
            ("alone", alone),
            ("fickle", leaving),
        ):
            told(word, server)
        told("site", first)
        guest = AsyncExitStack()
        stack.push_async_callback(guest.aclose)
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if word == "join":
                server = Server(Captioner(), options("forge/captioner/guest"))
                told("joined", await guest.enter_async_context(server))
            elif word == "leave":
                await guest.aclose()
            elif word == "flood":
                for words in range(520):
                    event = CaptionFinished(words=words)
                    data, text = event.to_bytes(), event.model_dump_json()
                    await first.events.publish("forge/flood", TYPE, data, text)
            elif word == "away":
                await fickle.aclose()
                print("gone", flush=True)
            elif word == "back":
                again = Server(Captioner(), options("forge/fickle/two", port))
                told("back", await fickle.enter_async_context(again))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
