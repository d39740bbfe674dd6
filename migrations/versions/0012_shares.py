"""shares

How much of the devices each user has used, by which users of one priority take turns. A process of the
previous version neither reads nor writes it; what it runs is charged to nobody.

Revision: 0012
Follows: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("virtual_s", sa.Float(), nullable=False),
        sa.Column("start_s", sa.Float(), nullable=False),
        sa.Column("mean_s", sa.Float(), nullable=False),
        sa.Column(
            "ended_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "virtual_s >= 0 AND start_s >= 0 AND mean_s >= 0", name=op.f("ck_shares_amounts")
        ),
        sa.PrimaryKeyConstraint("user", "device", name=op.f("pk_shares")),
        postgresql_with={"fillfactor": "50"},
    )


def downgrade() -> None:
    op.drop_table("shares")
