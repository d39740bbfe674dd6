"""check steps without a model

Reads the whole table once, and lets others write meanwhile. Nothing changes for any version.

Revision: 0004
Follows: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE steps VALIDATE CONSTRAINT ck_steps_model")


def downgrade() -> None:
    """A constraint that was validated stays so; 0003 removes it."""
