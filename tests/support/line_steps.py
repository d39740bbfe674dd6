"""Steps of a waiting line, for tests of what is made of one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from shared.db.run_times import Kind
from shared.db.waiting import LineStep

GB = 10**9
MODEL, OTHER = UUID(int=1), UUID(int=2)
HASHES = {MODEL: "1" * 64, OTHER: "2" * 64}


def kind_of(model: UUID | None) -> Kind:
    checksum = "" if model is None else HASHES[model]
    return Kind(type="generate", checkpoint_sha256=checksum, preset="gpu@1")


def line_step(model: UUID | None = MODEL, **changes: Any) -> LineStep:
    """A step that waits and needs 8 GB."""
    usual = LineStep(
        id=uuid4(),
        job_id=uuid4(),
        user="ada",
        device="cuda",
        priority="normal",
        vram_bytes=8 * GB,
        model_id=model,
        kind=kind_of(model),
        work=1.0,
        timeout_s=600.0,
        due_in_s=0.0,
    )
    return replace(usual, **changes)
