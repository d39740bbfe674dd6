"""old artifacts

By this index the pruner finds the oldest artifacts; without it a pass reads every job that has ended.
Built while others write; after a failure run it again. Nothing changes for the previous version.

Revision: 0014
Follows: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_artifacts_created_at")
        op.execute("CREATE INDEX CONCURRENTLY ix_artifacts_created_at ON artifacts (created_at)")


def downgrade() -> None:
    op.drop_index("ix_artifacts_created_at")
