"""A worker, `python -m tests.support.gated_worker`, that can be held at the boundaries of a step.

It is the real one: `supervisor.worker` with the real store, the real parts and the real lifecycle.
What is put in its place are two of the ports that it is built from anyway, the step store (the same
class, with a gate before or after its calls) and the runner's entry. `TMPDIR` names the folder of
the gates: it is one of the few variables that also reach a runner.

Import-light, like `supervisor.__main__`: spawn imports this module again in every runner.
"""

from __future__ import annotations


def main() -> int:
    import os
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any
    from unittest.mock import patch
    from uuid import UUID

    import anyio
    from tests.support import crash_runner, quick_timings
    from tests.support.gates import Gates

    from runner import entry
    from shared.db.engine import Database
    from shared.db.step_store import PostgresStepStore
    from shared.events import NewEvent
    from shared.step_store import AttemptResult, Claim, ClaimRequest, StoredArtifact
    from supervisor import worker

    gates = Gates(Path(os.environ["TMPDIR"]))

    class GatedStepStore(PostgresStepStore):
        def __init__(self, database: Database) -> None:
            super().__init__(database)
            self._between_steps = anyio.Lock()

        async def claim(self, request: ClaimRequest) -> Claim | None:
            # Between its commit and the bell a job is in nobody's hands, nor is its second step
            # when the first has its verdict. Without a word from here this very worker would have
            # finished it before anybody could be killed.
            await gates.keep_off("created")
            async with self._between_steps:
                claim = await super().claim(request)
            if claim is not None:
                await gates.come("claimed")
            return claim

        async def commit_running(self, claim: Claim, events: Sequence[NewEvent]) -> None:
            await gates.come("ready")
            await super().commit_running(claim, events)
            await gates.come("running committed")

        async def add_artifact(self, claim: Claim, artifact: StoredArtifact, event: Any) -> bool:
            await gates.come("uploaded")
            return await super().add_artifact(claim, artifact, event)

        async def finish(self, claim: Claim, end: AttemptResult) -> UUID | None:
            await gates.come("verified")
            async with self._between_steps:
                following = await super().finish(claim, end)
                if following is not None and following != claim.step_id:
                    await gates.come("between steps")
            return following

    with (
        patch.object(worker, "PostgresStepStore", GatedStepStore),
        patch.object(entry, "main", crash_runner.main),
    ):
        # Their own pace would be seconds of waiting in every cell.
        return worker.main(quick_timings.from_environment(rescue_every_s=0.3, heartbeat_s=0.3))


if __name__ == "__main__":
    raise SystemExit(main())
