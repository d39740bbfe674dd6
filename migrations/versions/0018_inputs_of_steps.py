"""inputs of steps

By this index retention finds the steps that name an input. Built while others write; after a failure run it
again.

Revision: 0018
Follows: 0017
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_steps_inputs")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_steps_inputs ON steps USING gin (inputs jsonb_path_ops) "
            "WHERE inputs IS NOT NULL"
        )


def downgrade() -> None:
    op.drop_index("ix_steps_inputs")
