"""indexes of the queue

One index for the claim, one for the rescuer, one for lists of a status. They replace `ix_steps_due`:
a worker of the previous version finds the oldest step by `ix_steps_run_at`. Built while others write;
after a failure run it again.

Revision: 0011
Follows: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

JOBS = "ix_jobs_user_status_created_at_id"
STEPS = {
    "ix_steps_waiting": (
        'device, priority, "user", '
        "coalesce(model_id, '00000000-0000-0000-0000-000000000000'::uuid), "
        "vram_bytes, created_at, id"
    ),
    "ix_steps_run_at": "run_at, id",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name in (*STEPS, JOBS):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        for name, columns in STEPS.items():
            op.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON steps ({columns}) WHERE state = 'queued'"
            )
        op.execute(f'CREATE INDEX CONCURRENTLY {JOBS} ON jobs ("user", status, created_at, id)')
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_steps_due")


def downgrade() -> None:
    op.create_index(
        "ix_steps_due",
        "steps",
        ["queue", "device", "run_at"],
        postgresql_where=sa.text("state = 'queued'"),
    )
    for name in STEPS:
        op.drop_index(name, table_name="steps")
    op.drop_index(JOBS, table_name="jobs")
