"""first events

By this index the pruner finds the jobs whose events it has not deleted. Built while others write; after a
failure run it again. The previous version deletes events in no order: a job whose first event it
deleted keeps its other ones until the job itself goes.

Revision: 0015
Follows: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_events_first")
        op.execute("CREATE INDEX CONCURRENTLY ix_events_first ON events (ts, job_id) WHERE seq = 1")


def downgrade() -> None:
    op.drop_index("ix_events_first")
