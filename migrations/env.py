"""Alembic's entry: runs migrations on the connection or the address that it was given."""

from alembic import context
from sqlalchemy import Connection

from shared.db.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    engine = context.config.attributes["engine"]
    with engine.connect() as opened:
        _run(opened)
        opened.commit()
    engine.dispose()
