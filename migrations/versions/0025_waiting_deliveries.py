"""waiting deliveries by user

A claim of webhooks walks each user's hosts, so that a user with many of them holds up nobody else. Both
indexes are changed while others write; after a failure run it again.

Revision: 0025
Follows: 0024
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_deliveries_waiting")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_deliveries_waiting "
            'ON deliveries ("user", host, next_at) WHERE next_at IS NOT NULL'
        )
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_deliveries_due")


def downgrade() -> None:
    op.execute(
        "CREATE INDEX ix_deliveries_due ON deliveries (host, next_at) WHERE next_at IS NOT NULL"
    )
    op.drop_index("ix_deliveries_waiting")
