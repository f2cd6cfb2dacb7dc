"""Reads and changes what the tables say of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from protoplane.registry.v1 import ListModelsRequest, Model, Version, VersionSpec
from protoplane_base import Code, PlaneError
from protoplane_components.registry.conversion import model_of, now_ns, version_of
from protoplane_components.registry.database import Database
from protoplane_components.registry.tables import (
    AliasRow,
    DiscardedRow,
    ModelRow,
    TagRow,
    VersionRow,
)

MAX_VERSIONS = 100
"""Most versions that come with a model."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the object plane.

    Attributes:
        key: Where it is.
        size: Its bytes.
        digest: BLAKE2b-256 of them in hex.
        owned: Whether the registry wrote it, and deletes it with its version.
    """

    key: str
    size: int
    digest: str
    owned: bool


@dataclass(frozen=True, slots=True)
class Revision:
    """What of a model tells whether it changed; a model that comes back has another id."""

    id: int
    number: int


class Catalog:
    """Models, versions, aliases and tags, each call as one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def revisions(self, name: str = "") -> Mapping[str, Revision]:
        """Which models there are, and how they stand; one of them alone, if it is there.

        Raises:
            PlaneError: UNAVAILABLE where the database is away; so do all others.
        """

        async def do(session: AsyncSession) -> Mapping[str, Revision]:
            asked = select(ModelRow.name, ModelRow.id, ModelRow.revision)
            if name:
                asked = asked.where(ModelRow.name == name)
            rows = await session.execute(asked)
            return {name: Revision(id_, number) for name, id_, number in rows}

        return await self._database.read(do)

    async def model(self, name: str) -> Model:
        """A model, with its newest versions.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Model:
            [model] = await _models(session, [await _model(session, name)], MAX_VERSIONS)
            return model

        return await self._database.read(do)

    async def models(self, asked: ListModelsRequest, after: str, most: int) -> Sequence[Model]:
        """The models that a request asks for, behind a name."""

        async def do(session: AsyncSession) -> Sequence[Model]:
            wanted = select(ModelRow).where(ModelRow.name > after, *_filters(asked))
            rows = await session.scalars(wanted.order_by(ModelRow.name).limit(most))
            return await _models(session, rows.all(), 0)

        return await self._database.read(do)

    async def version(self, model: str, reference: str) -> Version:
        """The version that a name, ``@alias`` or nothing stands for.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Version:
            row = await _model(session, model)
            return version_of(await _version(session, row, reference))

        return await self._database.read(do)

    async def versions(self, model: str, before: int, most: int) -> Sequence[tuple[int, Version]]:
        """Versions that were added before that of an id (0 for all), each with its id.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Sequence[tuple[int, Version]]:
            row = await _model(session, model)
            asked = select(VersionRow).where(VersionRow.model_id == row.id)
            if before:
                asked = asked.where(VersionRow.id < before)
            rows = await session.scalars(asked.order_by(VersionRow.id.desc()).limit(most))
            return [(each.id, version_of(each)) for each in rows]

        return await self._database.read(do)

    async def add(self, spec: VersionSpec, file: StoredFile) -> tuple[Version, bool]:
        """Add a version; it, and whether it is new.

        A version of that name with the same bytes is left as it is. A file that the registry wrote
        is taken off the list of those to be deleted.

        Raises:
            PlaneError: ALREADY_EXISTS where the version has other bytes.
        """

        async def do(session: AsyncSession) -> tuple[Version, bool]:
            now = now_ns()
            model = await session.scalar(_of_name(spec.model).with_for_update())
            if model is None:
                model = ModelRow(
                    name=spec.model, created_ns=now, changed_ns=now, revision=0, numbered=0
                )
                session.add(model)
                await session.flush()
            if spec.version:
                known = await session.scalar(_named(model, spec.version))
                if known is not None:
                    return _same(version_of(known), file), False
            version = VersionRow(
                model_id=model.id,
                name=spec.version or await _next(session, model),
                format=spec.format,
                size=file.size,
                digest=file.digest,
                artifact=file.key,
                owned=file.owned,
                backend=spec.backend,
                settings=dict(spec.settings),
                description=spec.description,
                created_ns=now,
                tags=[TagRow(name=name, value=value) for name, value in spec.tags.items()],
            )
            session.add(version)
            await session.flush()
            for alias in spec.aliases:
                await _point(session, model, alias, version)
            if file.owned:
                await session.execute(delete(DiscardedRow).where(DiscardedRow.key == file.key))
            return await _changed(session, model, version), True

        return await self._database.change(do)

    async def tag(
        self, model: str, reference: str, values: Mapping[str, str], remove: Sequence[str]
    ) -> Version:
        """Set tags of a version, and take others away.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Version:
            row = await _model(session, model, changing=True)
            version = await _version(session, row, reference)
            kept = {tag.name: tag for tag in version.tags if tag.name not in remove}
            for name, value in values.items():
                if name in kept:
                    kept[name].value = value
                else:
                    kept[name] = TagRow(name=name, value=value)
            version.tags = list(kept.values())
            return await _changed(session, row, version)

        return await self._database.change(do)

    async def delete(self, model: str, name: str) -> Version:
        """Delete a version; what it was. Its file is put on the list of those to be deleted.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Version:
            row = await _model(session, model, changing=True)
            version = await _version(session, row, name)
            told = version_of(version)
            if version.owned:
                session.add(DiscardedRow(key=version.artifact, due_ns=0))
            await session.execute(delete(VersionRow).where(VersionRow.id == version.id))
            left = await session.scalar(select(func.count()).where(VersionRow.model_id == row.id))
            if left:
                row.revision += 1
                row.changed_ns = now_ns()
            else:
                await session.execute(delete(ModelRow).where(ModelRow.id == row.id))
            return told

        return await self._database.change(do)

    async def set_alias(self, model: str, alias: str, reference: str) -> Version:
        """Let an alias stand for a version; it.

        Raises:
            PlaneError: NOT_FOUND.
        """

        async def do(session: AsyncSession) -> Version:
            row = await _model(session, model, changing=True)
            version = await _version(session, row, reference)
            await _point(session, row, alias, version)
            return await _changed(session, row, version)

        return await self._database.change(do)

    async def delete_alias(self, model: str, alias: str) -> bool:
        """Delete an alias; whether there was one.

        Raises:
            PlaneError: NOT_FOUND; there is no such model.
        """

        async def do(session: AsyncSession) -> bool:
            row = await _model(session, model, changing=True)
            known = await session.get(AliasRow, (row.id, alias))
            if known is None:
                return False
            await session.delete(known)
            row.revision += 1
            row.changed_ns = now_ns()
            return True

        return await self._database.change(do)


def _filters(asked: ListModelsRequest) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if asked.text:
        found.append(func.lower(ModelRow.name).contains(asked.text.lower(), autoescape=True))
    if asked.tag:
        name, equals, value = asked.tag.partition("=")
        tagged = select(VersionRow.model_id).join(TagRow, TagRow.version_id == VersionRow.id)
        tagged = tagged.where(TagRow.name == name)
        found.append(ModelRow.id.in_(tagged.where(TagRow.value == value) if equals else tagged))
    if asked.format:
        formed = select(VersionRow.model_id).where(VersionRow.format == asked.format)
        found.append(ModelRow.id.in_(formed))
    if asked.alias:
        named = select(AliasRow.model_id).where(AliasRow.name == asked.alias)
        found.append(ModelRow.id.in_(named))
    return found


async def _models(session: AsyncSession, rows: Sequence[ModelRow], most: int) -> list[Model]:
    ids = [row.id for row in rows]
    newest = select(func.max(VersionRow.id), func.count(VersionRow.id), VersionRow.model_id)
    newest = newest.where(VersionRow.model_id.in_(ids)).group_by(VersionRow.model_id)
    counted = {model: (id_, count) for id_, count, model in (await session.execute(newest)).all()}
    asked = select(VersionRow).where(VersionRow.id.in_([id_ for id_, _ in counted.values()]))
    latest = {version.model_id: version for version in await session.scalars(asked)}
    standing = select(AliasRow.model_id, AliasRow.name, VersionRow.name).join(
        VersionRow, VersionRow.id == AliasRow.version_id
    )
    aliases: dict[int, dict[str, str]] = {id_: {} for id_ in ids}
    for id_, alias, version in await session.execute(standing.where(AliasRow.model_id.in_(ids))):
        aliases[id_][alias] = version
    models: list[Model] = []
    for row in rows:
        versions: Sequence[VersionRow] = ()
        if most:
            of_it = select(VersionRow).where(VersionRow.model_id == row.id)
            of_it = of_it.order_by(VersionRow.id.desc()).limit(most)
            versions = (await session.scalars(of_it)).all()
        _, count = counted.get(row.id, (0, 0))
        models.append(
            model_of(
                row,
                aliases=aliases[row.id],
                latest=latest.get(row.id),
                count=count,
                versions=versions,
            )
        )
    return models


async def _model(session: AsyncSession, name: str, *, changing: bool = False) -> ModelRow:
    asked = _of_name(name)
    row = await session.scalar(asked.with_for_update() if changing else asked)
    if row is None:
        raise PlaneError(
            Code.NOT_FOUND, f"there is no model {name}; ListModels says which there are"
        )
    return row


async def _version(session: AsyncSession, model: ModelRow, reference: str) -> VersionRow:
    asked = select(VersionRow).where(VersionRow.model_id == model.id)
    if reference.startswith("@"):
        asked = asked.join(AliasRow, AliasRow.version_id == VersionRow.id)
        asked = asked.where(AliasRow.name == reference[1:])
    elif reference:
        asked = asked.where(VersionRow.name == reference)
    row = await session.scalar(asked.order_by(VersionRow.id.desc()).limit(1))
    if row is None:
        what = "alias" if reference.startswith("@") else "version"
        raise PlaneError(
            Code.NOT_FOUND,
            f"{model.name} has no {what} {reference.removeprefix('@')}; GetModel says which it has",
        )
    return row


async def _next(session: AsyncSession, model: ModelRow) -> str:
    while True:
        model.numbered += 1
        if await session.scalar(_named(model, str(model.numbered))) is None:
            return str(model.numbered)


async def _point(session: AsyncSession, model: ModelRow, alias: str, version: VersionRow) -> None:
    known = await session.get(AliasRow, (model.id, alias))
    if known is None:
        session.add(AliasRow(model_id=model.id, name=alias, version_id=version.id))
    else:
        known.version_id = version.id


async def _changed(session: AsyncSession, model: ModelRow, version: VersionRow) -> Version:
    model.revision += 1
    model.changed_ns = now_ns()
    await session.flush()
    await session.refresh(version, ["model", "tags", "aliases"])
    return version_of(version)


def _of_name(name: str) -> Select[ModelRow]:
    return select(ModelRow).where(ModelRow.name == name)


def _named(model: ModelRow, name: str) -> Select[VersionRow]:
    return select(VersionRow).where(VersionRow.model_id == model.id, VersionRow.name == name)


def _same(known: Version, file: StoredFile) -> Version:
    if known.digest != file.digest:
        raise PlaneError(
            Code.ALREADY_EXISTS,
            f"{known.model}:{known.version} has the digest {known.digest}, and this file has "
            f"{file.digest}; a version never changes, so give it another name",
        )
    return known
