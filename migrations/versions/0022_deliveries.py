"""deliveries

A row for each message that a job's receiver is to get. A worker of the previous version writes none:
what it does to a job is not reported. So the workers are replaced before the api.

Revision: 0022
Follows: 0021
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deliveries",
        sa.Column("job_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "event IN ('artifact', 'end', 'start')", name=op.f("ck_deliveries_event")
        ),
        sa.CheckConstraint(
            "state IN ('dead', 'delivered', 'waiting')", name=op.f("ck_deliveries_state")
        ),
        sa.CheckConstraint(
            "(state = 'waiting') = (ended_at IS NULL) AND (state = 'waiting' OR next_at IS NULL)",
            name=op.f("ck_deliveries_ended"),
        ),
        sa.CheckConstraint("attempts >= 0 AND seq >= 1", name=op.f("ck_deliveries_counters")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_deliveries")),
    )
    due = sa.text("next_at IS NOT NULL")
    op.create_index("ix_deliveries_due", "deliveries", ["host", "next_at"], postgresql_where=due)
    op.create_index(
        "ix_deliveries_turn", "deliveries", ["job_id"], unique=True, postgresql_where=due
    )
    op.create_index("ix_deliveries_state_created_at", "deliveries", ["state", "created_at"])


def downgrade() -> None:
    op.drop_table("deliveries")
