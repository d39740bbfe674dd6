"""loras of steps

The LoRAs that a step needs beside its model: a worker claims it where it has all of them. A worker of the
previous version ends such a step as `internal`; update the workers first.

Revision: 0028
Follows: 0027
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("loras", postgresql.ARRAY(sa.UUID()), nullable=True))


def downgrade() -> None:
    op.drop_column("steps", "loras")
