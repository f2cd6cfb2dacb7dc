"""``protoplane models``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from protoplane.registry.v1 import (
    DeleteAliasRequest,
    GetVersionRequest,
    ListModelsRequest,
    ListPlacementsRequest,
    Model,
    Placement,
    RegistryClient,
    SetAliasRequest,
    TagVersionRequest,
    VersionSpec,
    WatchRequest,
)
from protoplane_base import Code, Message, PlaneError
from protoplane_components.commands.models_shown import change_line, models_table
from protoplane_components.commands.targets import Target, targeted
from protoplane_components.registry.names import parse_reference
from protoplane_components.registry.transfer import Told, pull, push
from protoplane_runtime import terminal
from protoplane_runtime.examples import ExampleGroup

_EXAMPLES = (
    "protoplane models push small.safetensors small:1.0 --alias prod --tag task=chat",
    "protoplane models list",
    "protoplane models pull small@prod -o small.safetensors",
    "protoplane models tag small:1.0 reviewed=yes",
    "protoplane models alias small prod 1.0",
    "protoplane models watch",
)
_targeted = targeted(
    "--registry",
    "protoplane/registry",
    "The registry: a name, or an address as for `call`.",
    variable="PROTOPLANE_REGISTRY_TARGET",
)


@asynccontextmanager
async def _client(target: Target) -> AsyncGenerator[RegistryClient]:
    async with target.connect() as plane:
        yield RegistryClient(plane)


_json = click.option("--json", "plain", is_flag=True, help="Print JSON also on a terminal.")


@click.group(cls=ExampleGroup, examples=_EXAMPLES)
def models() -> None:
    """Keep models in a registry: their files, versions, aliases and tags.

    A version is written MODEL:VERSION, MODEL@ALIAS, or MODEL for the one that was added last.
    """


@models.command(name="push")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("reference", metavar="MODEL[:VERSION]")
@click.option("--format", "form", help="Form of the file; the end of its name by default.")
@click.option("--backend", default="", help="Which backend it is for.")
@click.option("--setting", "settings", multiple=True, metavar="NAME=VALUE", help="For the backend.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=VALUE", help="What to say of it.")
@click.option("--alias", "aliases", multiple=True, help="An alias that is to stand for it.")
@click.option("--description", default="", help="What it is, in a few words.")
@_json
@_targeted
def push_command(
    *,
    target: Target,
    file: Path,
    reference: str,
    form: str | None,
    backend: str,
    settings: tuple[str, ...],
    tags: tuple[str, ...],
    aliases: tuple[str, ...],
    description: str,
    plain: bool,
) -> None:
    """Add FILE as a version, the next number where none is named.

    What broke off is gone on with, also by pushing again.
    """
    model, version = _parsed(reference, alias=False)
    spec = VersionSpec(
        model=model,
        version=version,
        format=file.suffix[1:] if form is None else form,
        backend=backend,
        settings=_pairs(settings, "--setting"),
        tags=_pairs(tags, "--tag"),
        aliases=list(aliases),
        description=description,
    )

    async def work() -> None:
        async with _client(target) as registry:
            with _bar(f"push {model}", plain=plain) as told:
                pushed = await push(registry, file, spec, told=told)
            _show(pushed, f"{pushed.model}:{pushed.version} {pushed.digest}", plain=plain)

    terminal.run(work())


@models.command(name="pull")
@click.argument("reference", metavar="MODEL[:VERSION|@ALIAS]")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it; MODEL-VERSION.FORMAT here by default.",
)
@_json
@_targeted
def pull_command(*, target: Target, reference: str, output: Path | None, plain: bool) -> None:
    """Write the file of a version, and check it.

    What broke off is gone on with, also by pulling again.
    """
    model, version = _parsed(reference)

    async def work() -> None:
        async with _client(target) as registry:
            path, exact = output, version
            if path is None:
                asked = GetVersionRequest(model=model, version=version)
                found = (await registry.get_version(asked)).version
                assert found is not None
                ending = f".{found.format}" if found.format else ""
                # What it is called is what is pulled, wherever an alias points by then.
                path, exact = Path(f"{model}-{found.version}{ending}"), found.version
            with _bar(f"pull {model}", plain=plain) as told:
                pulled = await pull(registry, model, exact, path, told=told)
            _show(pulled, str(path), plain=plain)

    terminal.run(work())


@models.command(name="list")
@click.argument("text", required=False, default="")
@click.option(
    "--tag", default="", help="Only those with a version that has it: NAME or NAME=VALUE."
)
@click.option("--format", "form", default="", help="Only those with a version of this form.")
@click.option("--alias", default="", help="Only those that have this alias.")
@_json
@_targeted
def list_command(
    *, target: Target, text: str, tag: str, form: str, alias: str, plain: bool
) -> None:
    """List models, or those whose name holds TEXT, and how many instances have them loaded."""
    asked = ListModelsRequest(text=text, tag=tag, format=form, alias=alias)

    async def work() -> tuple[list[Model], list[Placement]]:
        found: list[Model] = []
        async with _client(target) as registry:
            while True:
                page = await registry.list_models(asked)
                found += page.models
                if not page.next_page_token:
                    placed = await registry.list_placements(ListPlacementsRequest())
                    return found, placed.placements
                asked.page_token = page.next_page_token

    found, placed = terminal.run(work())
    if plain:
        for model in found:
            click.echo(model.model_dump_json())
    elif found:
        Console().print(models_table(found, placed))
    else:
        click.echo("no such models" if text or tag or form or alias else "no models yet; push one")


@models.command(name="tag")
@click.argument("reference", metavar="MODEL[:VERSION|@ALIAS]")
@click.argument("tags", metavar="[NAME=VALUE]...", nargs=-1)
@click.option("--remove", multiple=True, metavar="NAME", help="A tag to take away.")
@_json
@_targeted
def tag_command(
    *, target: Target, reference: str, tags: tuple[str, ...], remove: tuple[str, ...], plain: bool
) -> None:
    """Set and take away tags of a version."""
    model, version = _parsed(reference)
    asked = TagVersionRequest(
        model=model, version=version, set=_pairs(tags, "NAME=VALUE"), remove=list(remove)
    )

    async def work() -> None:
        async with _client(target) as registry:
            tagged = (await registry.tag_version(asked)).version
            assert tagged is not None
            line = " ".join(f"{name}={value}" for name, value in sorted(tagged.tags.items()))
            _show(tagged, f"{tagged.model}:{tagged.version} {line}".rstrip(), plain=plain)

    terminal.run(work())


@models.command(name="alias")
@click.argument("model")
@click.argument("alias")
@click.argument("version", required=False, default="")
@click.option("--delete", is_flag=True, help="Delete the alias.")
@_json
@_targeted
def alias_command(
    *, target: Target, model: str, alias: str, version: str, delete: bool, plain: bool
) -> None:
    """Let ALIAS of MODEL stand for VERSION (or @OTHER), by default the one that was added last."""

    async def work() -> None:
        async with _client(target) as registry:
            if delete:
                await registry.delete_alias(DeleteAliasRequest(model=model, alias=alias))
                return
            asked = SetAliasRequest(model=model, alias=alias, version=version)
            named = (await registry.set_alias(asked)).version
            assert named is not None
            _show(named, f"{model}@{alias} is {model}:{named.version}", plain=plain)

    terminal.run(work())


@models.command(name="watch")
@click.argument("model", required=False, default="")
@click.option("--once", is_flag=True, help="Say how it is now, and end.")
@_json
@_targeted
def watch_command(*, target: Target, model: str, once: bool, plain: bool) -> None:
    """Follow models and the instances that have them, or one MODEL, until Ctrl-C."""
    plain = plain or not terminal.is_terminal()

    async def follow() -> None:
        async with _client(target) as registry:
            async for change in registry.watch(WatchRequest(model=model)):
                if change.ready is not None:
                    if once:
                        return
                elif plain:
                    click.echo(change.model_dump_json())
                else:
                    Console().print(change_line(change), soft_wrap=True)

    async def work() -> None:
        # A registry that is started anew is followed again, from how it is then.
        while True:
            try:
                return await follow()
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE or once:
                    raise
                click.echo(f"the registry is away: {error.message}", err=True)
                await asyncio.sleep(1)

    terminal.run(work())


def _parsed(reference: str, *, alias: bool = True) -> tuple[str, str]:
    try:
        model, version = parse_reference(reference)
    except PlaneError as error:
        raise click.BadParameter(error.message) from None
    if version.startswith("@") and not alias:
        raise click.BadParameter(f"{reference!r} names an alias; write --alias {version[1:]}")
    return model, version


def _pairs(pairs: tuple[str, ...], hint: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=hint)
        found[name] = value
    return found


def _show(message: Message, line: str, *, plain: bool) -> None:
    click.echo(json.dumps(json.loads(message.model_dump_json())) if plain else line)


@contextmanager
def _bar(what: str, *, plain: bool) -> Generator[Told]:
    console = Console(stderr=True)
    if plain or not console.is_terminal:
        yield lambda _done, _size: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, size: progress.update(task, completed=done, total=size)
