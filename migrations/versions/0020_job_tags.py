"""job tags

A row for each tag of a job, by which lists of one tag find their jobs. A process of the previous version
neither reads nor writes it; a job that it deletes takes its rows along.

Revision: 0020
Follows: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_tags",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_tags_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "user", "key", "value", "created_at", "job_id", name=op.f("pk_job_tags")
        ),
    )
    op.create_index("ix_job_tags_job_id", "job_tags", ["job_id"])


def downgrade() -> None:
    op.drop_table("job_tags")
