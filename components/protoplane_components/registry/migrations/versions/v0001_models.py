"""Models, versions, tags, aliases and uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "registry_models",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("numbered", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_models"),
        sa.UniqueConstraint("name", name="uq_registry_models_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "registry_versions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("model_id", _ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("format", sa.String(128), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("owned", sa.Boolean(), nullable=False),
        sa.Column("backend", sa.String(128), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["registry_models.id"],
            name="fk_registry_versions_model_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_registry_versions"),
        sa.UniqueConstraint("model_id", "name", name="uq_registry_versions_model_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "registry_tags",
        sa.Column("version_id", _ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["registry_versions.id"],
            name="fk_registry_tags_version_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("version_id", "name", name="pk_registry_tags"),
    )
    op.create_index("ix_registry_tags_name", "registry_tags", ["name"])
    op.create_table(
        "registry_aliases",
        sa.Column("model_id", _ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("version_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["registry_models.id"],
            name="fk_registry_aliases_model_id",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["registry_versions.id"],
            name="fk_registry_aliases_version_id",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "name", name="pk_registry_aliases"),
    )
    op.create_index("ix_registry_aliases_version_id", "registry_aliases", ["version_id"])
    op.create_table(
        "registry_uploads",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("turn", sa.String(32), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("touched_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_registry_uploads"),
    )
    op.create_table(
        "registry_parts",
        sa.Column("upload", sa.String(128), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload"],
            ["registry_uploads.name"],
            name="fk_registry_parts_upload",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("upload", "start", name="pk_registry_parts"),
    )
    op.create_table(
        "registry_discarded",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("due_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_registry_discarded"),
    )
    op.create_index("ix_registry_discarded_due_ns", "registry_discarded", ["due_ns"])


def downgrade() -> None:
    """Take it back."""
    for name in ("discarded", "parts", "uploads", "aliases", "tags", "versions", "models"):
        op.drop_table(f"registry_{name}")
