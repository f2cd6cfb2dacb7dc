"""The tables of the registry; `migrations` makes them.

Times are nanoseconds since 1970. What is deleted from the object plane is first written down in
`Discarded`, so that a process that is killed leaves nothing behind for good.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Integer, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import JSON

NAME_CHARS = 128
"""Most characters of the name of a model."""

_ID = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, str]: JSON, int: BigInteger}  # noqa: RUF012  # SQLAlchemy's


class ModelRow(Base):
    """A model."""

    __tablename__ = "registry_models"
    # An id that was given is never given again, so a model that comes back is another.
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # SQLAlchemy's

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS), unique=True)
    created_ns: Mapped[int]
    changed_ns: Mapped[int]
    revision: Mapped[int]
    numbered: Mapped[int]


class VersionRow(Base):
    """A version of a model; those that are added later have greater ids."""

    __tablename__ = "registry_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "name"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    model_id: Mapped[int] = mapped_column(_ID, ForeignKey(ModelRow.id, ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(NAME_CHARS))
    format: Mapped[str] = mapped_column(String(NAME_CHARS))
    size: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    artifact: Mapped[str] = mapped_column(Text)
    owned: Mapped[bool]
    backend: Mapped[str] = mapped_column(String(NAME_CHARS))
    settings: Mapped[dict[str, str]]
    description: Mapped[str] = mapped_column(Text)
    created_ns: Mapped[int]

    model: Mapped[ModelRow] = relationship(lazy="joined", innerjoin=True, viewonly=True)
    tags: Mapped[list[TagRow]] = relationship(lazy="selectin", cascade="all, delete-orphan")
    aliases: Mapped[list[AliasRow]] = relationship(lazy="selectin", viewonly=True)


class TagRow(Base):
    """A tag of a version."""

    __tablename__ = "registry_tags"

    version_id: Mapped[int] = mapped_column(
        _ID, ForeignKey(VersionRow.id, ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True, index=True)
    value: Mapped[str] = mapped_column(Text)


class AliasRow(Base):
    """An alias of a model."""

    __tablename__ = "registry_aliases"

    model_id: Mapped[int] = mapped_column(
        _ID, ForeignKey(ModelRow.id, ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)
    version_id: Mapped[int] = mapped_column(
        _ID, ForeignKey(VersionRow.id, ondelete="CASCADE"), index=True
    )


class UploadRow(Base):
    """An upload that has a name."""

    __tablename__ = "registry_uploads"

    name: Mapped[str] = mapped_column(String(NAME_CHARS), primary_key=True)
    model: Mapped[str] = mapped_column(String(NAME_CHARS))
    digest: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    received: Mapped[int]
    turn: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(NAME_CHARS))
    touched_ns: Mapped[int]


class PartRow(Base):
    """Bytes of an upload, as an object of their own."""

    __tablename__ = "registry_parts"

    upload: Mapped[str] = mapped_column(
        String(NAME_CHARS), ForeignKey(UploadRow.name, ondelete="CASCADE"), primary_key=True
    )
    start: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]
    key: Mapped[str] = mapped_column(Text)


class DiscardedRow(Base):
    """An object to delete once its time has come.

    Files of versions that are gone, and those that are being written, in case their writer dies.
    """

    __tablename__ = "registry_discarded"

    id: Mapped[int] = mapped_column(_ID, primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    due_ns: Mapped[int] = mapped_column(index=True)
