"""moments of an execution

When a step was claimed and when it got GO, from which its waiting and running seconds follow. A
process of the previous version neither names nor misses the columns. What it claims has no moments,
and counts as if it had waited until it ended.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("claimed_at", "attempt_started_at"):
        op.add_column("steps", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for name in ("attempt_started_at", "claimed_at"):
        op.drop_column("steps", name)
