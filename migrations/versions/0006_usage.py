"""usage

What each user used, by day and model. Processes of the previous version neither read nor write it,
so what they end during a roll-out is missing there.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)


def _amount(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
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
            name=op.f("ck_usage_amounts"),
        ),
        sa.PrimaryKeyConstraint("day", "user", "model", name=op.f("pk_usage")),
    )


def downgrade() -> None:
    op.drop_table("usage")
