"""trace of a job

The span of the request that made a job, so that a worker can go on with its trace hours later.
Processes of the previous version neither name nor miss the column: their jobs have none, and a
worker that finds none makes no spans. Adding it needs the table's lock for a moment, and no scan.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "traceparent")
