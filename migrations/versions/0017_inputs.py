"""inputs

Pictures that users send, and what a step starts from. A worker of the previous version ends a step
with inputs as `internal`: it does not know the parameters beside them. So update the workers first.

Revision: 0017
Follows: 0016
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inputs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("orientation", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("s3_key", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("schema_version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("format IN ('png', 'jpg', 'webp')", name=op.f("ck_inputs_format")),
        sa.CheckConstraint(
            "width > 0 AND height > 0 AND size_bytes > 0", name=op.f("ck_inputs_sizes")
        ),
        sa.CheckConstraint("orientation BETWEEN 1 AND 8", name=op.f("ck_inputs_orientation")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inputs")),
        sa.UniqueConstraint("s3_key", name=op.f("uq_inputs_s3_key")),
        sa.UniqueConstraint("user", "sha256", name=op.f("uq_inputs_user_sha256")),
    )
    op.create_index("ix_inputs_used_at", "inputs", ["used_at"])
    op.add_column("steps", sa.Column("inputs", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("steps", "inputs")
    op.drop_table("inputs")
