"""check webp artifacts

Reads the table once, and lets others write meanwhile. Nothing changes for any version.

Revision: 0024
Follows: 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE artifacts VALIDATE CONSTRAINT ck_artifacts_format")


def downgrade() -> None:
    """A constraint that was validated stays so; 0023 removes it."""
