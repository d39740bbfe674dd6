"""What the rescuer gives up on is counted, once."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import anyio
import pytest
from pydantic import SecretStr

from shared.settings import Settings
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Decide, OrphanedStep, Rescue, StepStore
from supervisor.maintenance.rescuer import Rescuer
from supervisor.metrics import Metrics

SETTINGS = Settings(
    database_url=SecretStr("postgresql://unused"),
    redis_url=SecretStr("redis://unused"),
    s3_endpoint="http://unused",
    s3_access_key=SecretStr("unused"),
    s3_secret_key=SecretStr("unused"),
    max_losses=5,
)


class OneAbandoned:
    """A store with one step whose lease ended; its transaction is repeated once."""

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self.ends: list[AttemptResult] = []

    async def rescue_expired(self, decide: Decide) -> Rescue | None:
        if self.ends:
            return None
        found = OrphanedStep(
            id=uuid4(),
            job_id=uuid4(),
            name="generate",
            state=StepState.RUNNING,
            epoch=1,
            attempt=1,
            losses=self._losses,
            cancel_requested=False,
            correlation_id="correlation",
        )
        self.ends = [decide(found), decide(found)]
        return found, self.ends[-1]

    async def rescue_unclaimed(self, *_: Any) -> None:
        return None


@pytest.mark.parametrize(("losses", "dead"), [(0, 0.0), (4, 1.0)])
def test_a_step_that_is_given_up_is_one_dead_letter(losses: int, dead: float) -> None:
    store, metrics = OneAbandoned(losses), Metrics()
    anyio.run(Rescuer(cast("StepStore", store), SETTINGS, metrics).rescue)
    assert (store.ends[0].reason is Reason.ATTEMPTS_EXHAUSTED) == bool(dead)
    counted = metrics.registry.get_sample_value("dreamforge_dead_letters_total", {"kind": "job"})
    assert counted == dead
