"""``protoplane jobs``."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from protoplane.jobs.v1 import (
    CancelRequest,
    FollowRequest,
    FollowResponse,
    GenerateRequest,
    Job,
    JobsClient,
    JobState,
    ListJobsRequest,
    Lora,
    ReadResultRequest,
)
from protoplane_base import Duration, Message
from protoplane_client import Plane
from protoplane_client.commands.options import engine_options
from protoplane_components.commands.jobs_pictures import KINDS, Easel, can_show, kind_for, picture
from protoplane_components.commands.jobs_terminal import screen
from protoplane_components.commands.numbers import INT32, UINT64, Seconds
from protoplane_components.commands.targets import Target, targeted
from protoplane_components.jobs.planes import JobPlanes
from protoplane_components.jobs.queueing import JobQueue
from protoplane_components.jobs.records import request_of
from protoplane_components.jobs.settings import JobSettings
from protoplane_components.jobs.sprites import SpriteGenerator
from protoplane_runtime import terminal
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.examples import ExampleGroup
from protoplane_server.planes.ground import objects_beside

_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)
_STATES = {state.name[10:].lower(): state for state in JobState if state}
_F = TypeVar("_F", bound=Callable[..., Any])
_CALL_S = 30.0
_EXAMPLES = (
    "protoplane jobs submit 'a red fox' --seed 7 --save fox.png",
    "protoplane jobs submit 'a red fox' --id fox --no-watch",
    "protoplane jobs watch fox",
    "protoplane jobs list --state running",
    "protoplane jobs cancel fox",
    "protoplane jobs work --slots 2",
)


class Failed(Exception):  # noqa: N818  # it is what became of the job, not of the command
    """The job came to no image."""


_targeted = targeted("--at", "protoplane/jobs", "The component: a name, or an address.")


def _shown(command: _F) -> _F:
    command = click.option("--json", "plain", is_flag=True, help="Print lines of JSON.")(command)
    command = click.option(
        "--picture", type=click.Choice(KINDS), default="auto", show_default=True,
        help="How a terminal shows previews.",
    )(command)  # fmt: skip
    return click.option(
        "--save", type=click.Path(path_type=Path), help="File to write the image to."
    )(command)


@click.group(cls=ExampleGroup, examples=_EXAMPLES)
def jobs() -> None:
    """Submit jobs, watch them, list and cancel them, and work on them."""


@jobs.command()
@click.argument("prompt")
@click.option("--id", "id_", default="", help="Name of the job, which makes it happen once.")
@click.option("--model", default="", help="Model to use; by default the first that there is.")
@click.option("--lora", "loras", metavar="NAME[=WEIGHT]", multiple=True, help="A LoRA; repeatable.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="Size of the image.")
@click.option("--steps", type=INT32, help="Steps of the sampler.")
@click.option("--guidance", type=float, help="How closely to keep to the prompt.")
@click.option("--seed", type=UINT64, help="Seed of the choices.")
@click.option("--priority", type=INT32, default=0, help="Higher goes first; 0 by default.")
@click.option("--time-limit", type=Seconds(), help="Most seconds of an attempt.")
@click.option("--no-watch", is_flag=True, help="Return once the job is accepted.")
@_shown
@_targeted
def submit(
    *,
    prompt: str,
    id_: str,
    model: str,
    loras: tuple[str, ...],
    size: str | None,
    steps: int | None,
    guidance: float | None,
    seed: int | None,
    priority: int,
    time_limit: Duration | None,
    no_watch: bool,
    save: Path | None,
    picture: str,
    plain: bool,
    target: Target,
) -> None:
    """Let an image of PROMPT be made, and watch it."""
    width, height = _size(size)
    request = GenerateRequest(
        # The id makes it safe to ask again where the answer was lost.
        id=id_ or uuid.uuid4().hex,
        prompt=prompt,
        model=model,
        loras=[_lora(text) for text in loras],
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        priority=priority,
        time_limit=time_limit,
    )

    async def work(plane: Plane) -> None:
        client = JobsClient(plane)
        answer = await client.generate(request, idempotency_key=request.id, timeout_s=_CALL_S)
        if no_watch:
            _say(answer, plain, f"job {request.id} is accepted")
            return
        await _watch(client, request.id, save, picture, plain)

    _run(work, target)


@jobs.command()
@click.argument("id_", metavar="ID")
@_shown
@_targeted
def watch(
    *,
    id_: str,
    save: Path | None,
    picture: str,
    plain: bool,
    target: Target,
) -> None:
    """Follow a job to its end."""

    async def work(plane: Plane) -> None:
        await _watch(JobsClient(plane), id_, save, picture, plain)

    _run(work, target)


@jobs.command("list")
@click.option("--state", "states", type=click.Choice([*_STATES]), multiple=True)
@click.option("--model", default="", help="Only those of this model.")
@click.option("--text", default="", help="Only those whose prompt holds this.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--json", "plain", is_flag=True, help="Print lines of JSON.")
@_targeted
def list_(
    *,
    states: tuple[str, ...],
    model: str,
    text: str,
    limit: int,
    plain: bool,
    target: Target,
) -> None:
    """List jobs, the newest first."""

    async def work(plane: Plane) -> None:
        found: list[Job] = []
        request = ListJobsRequest(states=[_STATES[each] for each in states], model=model, text=text)
        while len(found) < limit:
            request.page_size = min(500, limit - len(found))
            answer = await JobsClient(plane).list_jobs(request, timeout_s=_CALL_S)
            found += answer.jobs
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        if plain or not terminal.is_terminal():
            for job in found:
                click.echo(job.model_dump_json())
        else:
            Console().print(_table(found))

    _run(work, target)


@jobs.command()
@click.argument("id_", metavar="ID")
@click.option("--json", "plain", is_flag=True, help="Print JSON.")
@_targeted
def cancel(
    *,
    id_: str,
    plain: bool,
    target: Target,
) -> None:
    """Cancel a job that is queued or running."""

    async def work(plane: Plane) -> None:
        answer = await JobsClient(plane).cancel(CancelRequest(id=id_), timeout_s=_CALL_S)
        running = answer.cancelled is not None and (
            answer.cancelled.state == JobState.JOB_STATE_RUNNING
        )
        _say(answer, plain, f"job {id_} {'will be' if running else 'is'} cancelled")

    _run(work, target)


@jobs.command()
@click.option("--slots", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option(
    "--step-seconds", "step_s", type=click.FloatRange(min=0), default=0.05, show_default=True,
    help="Seconds that a step of a sprite waits, to be as slow as a real model.",
)  # fmt: skip
@click.option("--objects", metavar="URL", help="Object store.  [default: beside the engine]")
@engine_options
def work(*, slots: int, step_s: float, objects: str | None, engine: str, namespace: str) -> None:
    """Work on jobs, beside the components, until Ctrl-C or SIGTERM."""
    terminal.run(_work(slots, step_s, objects, engine, namespace))


async def _work(slots: int, step_s: float, objects: str | None, url: str, namespace: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = await open_engine(url)
    try:
        store = await open_object_store(objects or objects_beside(url))
        planes = JobPlanes.of_engine(engine, store, namespace)
        async with JobQueue(planes, JobSettings(), SpriteGenerator(step_s=step_s), slots=slots):
            await stop.wait()
    finally:
        await engine.close()


def _run(work: Callable[[Plane], Any], target: Target) -> None:
    async def within() -> None:
        async with target.connect() as plane:
            await work(plane)

    try:
        terminal.run(within())
    except Failed as error:
        terminal.fail(str(error))


async def _watch(client: JobsClient, id_: str, save: Path | None, wanted: str, plain: bool) -> None:
    rich = terminal.is_terminal() and not plain
    kind = await asyncio.to_thread(kind_for, wanted) if rich else "none"
    request = FollowRequest(id=id_, without_previews=rich and kind == "none")
    updates = cast("Any", client.follow(request))
    async with aclosing(updates) as stream:
        end = await (_show(stream, kind) if rich else _print(stream))
    if end.error is not None and end.error.failure is not None:
        failure = end.error.failure
        raise Failed(f"job {id_} failed: {failure.code}: {failure.message}")
    if end.cancelled is not None:
        raise Failed(f"job {id_} was cancelled")
    image = b""
    if save is not None or (rich and kind != "none"):
        parts = client.read_result(ReadResultRequest(id=id_), timeout_s=_CALL_S)
        image = b"".join([part.data async for part in parts])
    if save is not None:
        await asyncio.to_thread(save.write_bytes, image)
    if rich and kind != "none" and can_show(image):
        click.echo(picture(image, kind, screen().lines - 2))
    elif rich and save is None:
        click.echo(f"job {id_} is done; --save FILE writes what it made")


async def _print(updates: AsyncIterator[FollowResponse]) -> FollowResponse:
    last = FollowResponse()
    async for last in updates:
        click.echo(last.model_dump_json())
    return last


async def _show(updates: AsyncIterator[FollowResponse], kind: str) -> FollowResponse:
    last = FollowResponse()
    easel = Easel(kind, screen())
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(), transient=True) as bar:
        task = bar.add_task("queued", total=100, left="")
        async for last in updates:
            if last.accepted is not None and last.accepted.position:
                bar.update(task, description=f"queued, {last.accepted.position} before")
            elif last.progress is not None and (progress := last.progress.progress) is not None:
                left_s = progress.seconds_left
                bar.update(
                    task,
                    completed=progress.percent,
                    description=progress.stage.proto_name[10:].replace("_", " ").lower(),
                    left="" if left_s is None else f"{left_s:.0f} s left",
                )
            elif last.preview is not None and can_show(last.preview.image):
                bar.stop()  # It leaves its line, which is the one below the picture.
                click.echo(easel.show(last.preview.image), nl=False)
                bar.start()
    click.echo(easel.clear(), nl=False)
    return last


def _say(answer: Message, plain: bool, words: str) -> None:
    click.echo(answer.model_dump_json() if plain else words)


def _table(found: list[Job]) -> Table:
    table = Table("id", "state", "model", "prompt", "accepted", "attempts")
    for job in found:
        request = request_of(job)
        state = job.state.name[10:].lower()
        done = f" {job.progress.percent:.0f} %" if job.progress is not None else ""
        table.add_row(
            job.id, state + done, request.model, request.prompt[:60],
            str(job.accepted_at)[:19], str(job.attempt),
        )  # fmt: skip
    return table


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not WIDTHxHEIGHT", param_hint="--size")
    return int(found[1]), int(found[2])


def _lora(text: str) -> Lora:
    name, equals, weight = text.partition("=")
    try:
        return Lora(name=name, weight=float(weight) if equals else None)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not NAME=WEIGHT", param_hint="--lora") from error
