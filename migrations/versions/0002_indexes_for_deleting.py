"""indexes for deleting

Deleting a job makes PostgreSQL look for the rows that point at it and at its steps. Without these
two indexes each deleted row costs a scan of `jobs` and one of `artifacts`.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_replay_of",
        "jobs",
        ["replay_of"],
        unique=False,
        postgresql_where=sa.text("replay_of IS NOT NULL"),
    )
    op.create_index("ix_artifacts_step_id", "artifacts", ["step_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_artifacts_step_id", table_name="artifacts")
    op.drop_index(
        "ix_jobs_replay_of",
        table_name="jobs",
        postgresql_where=sa.text("replay_of IS NOT NULL"),
    )
