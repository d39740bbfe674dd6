"""steps without a model

Resampling a picture needs no checkpoint, and a step that named one all the same would wait for a
host that has it. Processes of the previous version never claim such a step: a null is in no list of
verified models. They go on writing both columns, which the new CHECK allows; it is valid for every
row that there is, so nothing is scanned while the table is locked (0004 looks at them).

Revision: 0003
Follows: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("steps", "model_id", nullable=True)
    op.alter_column("steps", "checkpoint_sha256", nullable=True)
    op.execute(
        "ALTER TABLE steps ADD CONSTRAINT ck_steps_model "
        "CHECK ((model_id IS NULL) = (checkpoint_sha256 IS NULL)) NOT VALID"
    )


def downgrade() -> None:
    op.drop_constraint("ck_steps_model", "steps")
    op.execute("DELETE FROM jobs WHERE id IN (SELECT job_id FROM steps WHERE model_id IS NULL)")
    op.alter_column("steps", "checkpoint_sha256", nullable=False)
    op.alter_column("steps", "model_id", nullable=False)
