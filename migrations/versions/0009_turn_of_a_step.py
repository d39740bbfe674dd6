"""turn of a step

What decides whose turn it is, pinned on the step. A process of the previous version neither names nor
misses the columns: the steps that it creates wait as normal ones of `default`, and what it claims is
charged to nobody's share. No row is read while the table is locked (0010 looks at them).

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("user", sa.Text(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("priority", sa.Text(), server_default=sa.text("'normal'"), nullable=False),
        sa.Column("weight", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("passed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("virtual_s", sa.Float(), nullable=True),
    ):
        op.add_column("steps", column)
    op.execute(
        "ALTER TABLE steps ADD CONSTRAINT ck_steps_priority "
        "CHECK (priority IN ('high', 'low', 'normal')) NOT VALID, "
        "ADD CONSTRAINT ck_steps_weight CHECK (weight > 0) NOT VALID"
    )
    op.execute(
        "ALTER TABLE steps SET (autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0, "
        "vacuum_index_cleanup = on)"
    )


def downgrade() -> None:
    op.execute(
        "ALTER TABLE steps RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, "
        "autovacuum_vacuum_cost_delay, vacuum_index_cleanup)"
    )
    for name in ("virtual_s", "passed", "weight", "priority", "user"):
        op.drop_column("steps", name)
