"""usage by tag

Sums for the tags of jobs that the installation counts by. A process of the previous version neither reads
nor writes them: what it ends during a roll-out is missing there, and no tag of a job that it creates counts.

Revision: 0027
Follows: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def _amount(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "tag_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("tag_key", sa.Text(), nullable=False),
        sa.Column("tag_value", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        _count("jobs_succeeded"),
        _count("jobs_failed"),
        _count("jobs_cancelled"),
        _count("pictures"),
        _amount("run_seconds"),
        _amount("device_byte_seconds"),
        _amount("wait_seconds"),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "jobs_succeeded >= 0 AND jobs_failed >= 0 AND jobs_cancelled >= 0 AND pictures >= 0 "
            "AND run_seconds >= 0 AND device_byte_seconds >= 0 AND wait_seconds >= 0",
            name=op.f("ck_tag_usage_amounts"),
        ),
        sa.PrimaryKeyConstraint(
            "day", "user", "tag_key", "tag_value", "model", name=op.f("pk_tag_usage")
        ),
    )
    op.add_column(
        "job_tags",
        sa.Column("in_usage", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("job_tags", "in_usage")
    op.drop_table("tag_usage")
