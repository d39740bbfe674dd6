"""priority of a job

What a client says of a job's urgency. A process of the previous version neither names nor misses the
column: its jobs are `normal`. No row is read while the table is locked (0010 looks at them).

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("priority", sa.Text(), server_default=sa.text("'normal'"), nullable=False),
    )
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_priority "
        "CHECK (priority IN ('high', 'low', 'normal')) NOT VALID"
    )


def downgrade() -> None:
    op.drop_column("jobs", "priority")
