"""What Alembic runs: the steps that are missing, over the connection that `Database` has."""

from alembic import context

from protoplane_components.registry.tables import Base

VERSION_TABLE = "registry_version"

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    # Both databases have it, and `Database` begins transactions itself in SQLite.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
