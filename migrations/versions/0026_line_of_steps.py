"""line of steps

A claim finds each user's oldest step with one descent, whatever models and memory the user's steps
need. The index is made while others write; after a failure run it again.

Revision: 0026
Follows: 0025
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_steps_line")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_steps_line "
            "ON steps (device, priority, \"user\", created_at, id) WHERE state = 'queued'"
        )


def downgrade() -> None:
    op.drop_index("ix_steps_line")
