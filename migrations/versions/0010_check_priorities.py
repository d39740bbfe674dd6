"""check priorities

Reads both tables once, and lets others write meanwhile. Nothing changes for any version.

Revision: 0010
Follows: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs VALIDATE CONSTRAINT ck_jobs_priority")
    op.execute("ALTER TABLE steps VALIDATE CONSTRAINT ck_steps_priority")
    op.execute("ALTER TABLE steps VALIDATE CONSTRAINT ck_steps_weight")


def downgrade() -> None:
    """A constraint that was validated stays so; 0008 and 0009 remove them."""
