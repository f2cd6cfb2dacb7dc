"""``protoplane call``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from protoplane_base import CallOptions, Code, MethodKind, MethodSpec, PlaneError
from protoplane_client.commands.options import (
    engine_options,
    instances_of,
    metadata_of,
    tls_of,
    tls_options,
    token_of,
    token_options,
)
from protoplane_client.commands.values import live_values, read_values
from protoplane_client.connect_protocol import HttpError
from protoplane_client.discovering import ways
from protoplane_client.generated import generated_method
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_client.json_calls import call_json, http_method, http_path
from protoplane_client.plane import connect
from protoplane_client.reflection import Reflection
from protoplane_client.targets import Door, is_name, parse_target
from protoplane_client.tls import Tls
from protoplane_runtime import terminal
from protoplane_runtime.engines.discovery import Instance

_EXAMPLE = """
\b
Examples:
  protoplane call forge/captioner Caption '{"prompt": "The sea"}'
  protoplane call 127.0.0.1:50051 Caption '{"prompt": "The sea"}'
  protoplane call http://127.0.0.1:8080 CaptionerService/ListStyles
  protoplane call link+tcp://127.0.0.1:50052 forge.captioner.v1.CaptionerService/ListStyles
  printf '{"text":"a"} {"text":"b"}' | protoplane call 127.0.0.1:50051 Collect -
"""


@click.command(epilog=_EXAMPLE)
@click.argument("target")
@click.argument("method")
@click.argument("values", metavar="[JSON]...", nargs=-1)
@click.option("--timeout", "timeout_s", type=float, help="Seconds that the call may take.")
@click.option(
    "--metadata", "-m", "pairs", multiple=True, metavar="NAME=VALUE", help="What to send along."
)
@click.option("--json", "plain", is_flag=True, help="Print JSON lines also on a terminal.")
@engine_options
@token_options
@tls_options
def call(
    *,
    target: str,
    method: str,
    values: tuple[str, ...],
    timeout_s: float | None,
    pairs: tuple[str, ...],
    plain: bool,
    engine: str,
    namespace: str,
    token_env: str | None,
    token_file: Path | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> None:
    """Call METHOD of the component at TARGET and print what it answers as it comes.

    TARGET is the name of a component, an instance or a collection that discovery knows; or
    host:port, grpc://, grpcs:// or unix:/path, where the method is found by server
    reflection; http:// or https://, where it is called by the Connect protocol; or a link's
    address, such as link+tcp://host:port, where the generated package must be installed here or
    lie in the folder "generated". METHOD is Method, Service/Method or package.Service/Method; a
    link needs the last form. JSON is a request, @file or - for stdin; several of them are the
    messages of a stream; without one the request is empty.
    """
    options = CallOptions(metadata=metadata_of(pairs))
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    live = values == ("-",)
    texts = [] if live else read_values(values)
    tls = tls_of(tls_ca, tls_cert, tls_key)
    work = _call(
        target,
        partial(instances_of, target, engine, namespace) if is_name(target) else None,
        name=method,
        texts=None if live else texts,
        options=options,
        tls=tls,
        token=token_of(token_env, token_file),
        plain=plain,
    )
    terminal.run(work)


async def _call(
    target: str,
    named: Callable[[], Awaitable[Sequence[Instance]]] | None,
    *,
    name: str,
    texts: list[str] | None,
    options: CallOptions,
    tls: Tls | None,
    token: str | None,
    plain: bool,
) -> None:
    targets: str | dict[str, str] = target
    if named is None:
        door = parse_target(target).door
    else:
        door, targets = _best(target, await named())
    if door == "inproc":
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{target} is inside the process that serves it, and no other"
        )
    if door == "link":
        method = generated_method(name)
        async with connect(targets, tls=tls, token=token) as plane:
            answers = call_json(plane, method, _requests(method, texts), options)
            await _show(method, answers, plain)
        return
    if door == "grpc":
        async with connect(targets, tls=tls, token=token) as plane:
            method = await Reflection(plane, options).method(name)
            answers = call_json(plane, method, _requests(method, texts), options)
            await _show(method, answers, plain)
        return
    # By JSON, one is as good as another.
    url = targets if isinstance(targets, str) else next(iter(targets.values()))
    session = HttpSession(url, tls=tls, token=token)
    try:
        await _call_http(session, name, texts, options, plain)
    finally:
        await session.aclose()


def _best(path: str, instances: Sequence[Instance]) -> tuple[Door, dict[str, str]]:
    """The door that tells most of the methods, and where it is, for each instance that has it."""
    doors: tuple[Door, ...] = ("grpc", "http", "link")
    for door in doors:
        found = {
            instance.name: next(way for way in ways(instance) if way.door == door).given
            for instance in instances
            if any(way.door == door for way in ways(instance))
        }
        if found:
            return door, found
    if instances:
        raise PlaneError(
            Code.UNAVAILABLE, f"no address of {path} can be used from here; see protoplane ps"
        )
    raise PlaneError(
        Code.UNAVAILABLE, f"nobody serves {path}; start it, or see who is there: protoplane ps"
    )


async def _call_http(
    session: HttpSession, name: str, texts: list[str] | None, options: CallOptions, plain: bool
) -> None:
    # The kind of the method is not known here. A unary call is tried first; a method that streams
    # refuses it before it has done anything.
    channel = HttpChannel(session, encoding="json")
    path = await http_path(session, name)
    if texts is None:
        texts = [text async for text in live_values()]
    if len(texts) <= 1:
        method = http_method(path, MethodKind.UNARY)
        answers = call_json(channel, method, _requests(method, texts), options)
        try:
            await _show(method, answers, plain)
        except HttpError as error:
            if error.status != 415:
                raise
        else:
            return
    method = http_method(path, MethodKind.BIDI_STREAM)
    try:
        await _show(method, call_json(channel, method, _requests(method, texts), options), plain)
    except PlaneError as error:
        # A method that streams its answers alone wants one request, be it an empty one.
        if texts or error.code is not Code.UNIMPLEMENTED:
            raise
        await _show(method, call_json(channel, method, _requests(method, ["{}"]), options), plain)


def _requests(method: MethodSpec[Any, Any], texts: list[str] | None) -> AsyncIterable[str]:
    if method.kind.client_streaming and texts is None:
        return live_values()
    if texts is None:
        texts = read_values(["-"])
    if not method.kind.client_streaming and len(texts) > 1:
        raise click.UsageError(f"{method.path} takes one request, and {len(texts)} were given")

    async def given() -> AsyncIterator[str]:
        for text in texts or ([] if method.kind.client_streaming else ["{}"]):
            yield text

    return given()


async def _show(method: MethodSpec[Any, Any], answers: AsyncIterator[str], plain: bool) -> None:
    """Print each answer as it comes; on a terminal with the time that it took."""
    rich = terminal.is_terminal() and not plain
    start = time.perf_counter()
    status = Console(stderr=True).status("calling…") if rich else None
    count = 0
    with status or nullcontext():
        async for answer in answers:
            count += 1
            seconds = time.perf_counter() - start
            streams = method.kind.server_streaming
            prefix = Text(f"{seconds * 1000:7.1f} ms  ", "dim") if streams else None
            # Answers go to the standard output; the spinner, on the other one, makes room for them.
            if status is not None:
                status.stop()
            terminal.print_json(answer, plain=plain, prefix=prefix, tall=not streams)
            if status is not None:
                status.start()
    if rich:
        seconds = time.perf_counter() - start
        words = f"{count} message{'s' if count != 1 else ''} in {seconds * 1000:.1f} ms"
        Console(stderr=True).print(Text(words, "dim"))
