"""webp artifacts

Pictures may be WebP files. The new constraint is not checked against old rows yet, so that nothing waits. A
worker of the previous version ends a step that wants one as `internal`; update the workers first.

Revision: 0023
Follows: 0022
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE artifacts DROP CONSTRAINT ck_artifacts_format")
    op.execute(
        "ALTER TABLE artifacts ADD CONSTRAINT ck_artifacts_format "
        "CHECK (format IN ('png', 'jpg', 'webp')) NOT VALID"
    )


def downgrade() -> None:
    op.execute("DELETE FROM artifacts WHERE format = 'webp'")
    op.execute("ALTER TABLE artifacts DROP CONSTRAINT ck_artifacts_format")
    op.execute(
        "ALTER TABLE artifacts ADD CONSTRAINT ck_artifacts_format CHECK (format IN ('png', 'jpg'))"
    )
