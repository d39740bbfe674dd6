"""run times

How long the newest successes of each kind of step took. Processes of the previous version neither
read nor write it; what they end is no sample.

Revision: 0013
Follows: 0012
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _samples(name: str) -> sa.Column[list[float]]:
    return sa.Column(name, postgresql.ARRAY(sa.Float()), nullable=False)


def upgrade() -> None:
    op.create_table(
        "run_times",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("checkpoint_sha256", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        _samples("work"),
        _samples("start_seconds"),
        _samples("seconds"),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "cardinality(work) = cardinality(seconds) "
            "AND cardinality(start_seconds) = cardinality(seconds)",
            name=op.f("ck_run_times_samples"),
        ),
        sa.PrimaryKeyConstraint("type", "checkpoint_sha256", "preset", name=op.f("pk_run_times")),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("run_times")
