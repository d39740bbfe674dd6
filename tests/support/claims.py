"""Claims of a step, for tests of what a worker does with one."""

from __future__ import annotations

from uuid import uuid4

from tests.support.memory_store import MemoryStepStore

from shared.step_store import Claim, ClaimRequest


async def claim_step(store: MemoryStepStore, *, lease_s: float = 60.0) -> Claim:
    """Claim the next step of `store` for a new worker."""
    claim = await store.claim(
        ClaimRequest(
            worker_id=uuid4(),
            slot="cpu-0",
            queues=("default",),
            device="cpu",
            capacity_bytes=0,
            models=(store.model_id,),
            lease_s=lease_s,
        )
    )
    assert claim is not None
    return claim
