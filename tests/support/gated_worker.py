"""A worker, `python -m tests.support.gated_worker`, that a test can hold at every commit of a step.

It is the real worker with the real store, parts and lifecycle. Two of its ports are replaced: the
step store (the same class, with a gate before or after its calls) and the runner's entry. `TMPDIR`
names the folder of the gates, since few other variables also reach a runner.

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
            # Between its commit and its notification no process owns a job; the same holds for the
            # second step when the first has its verdict. Without this wait, this worker would
            # finish the job before the test can kill a process.
            await gates.wait_while_closed("created")
            async with self._between_steps:
                claim = await super().claim(request)
            if claim is not None:
                await gates.wait_at("claimed")
            return claim

        async def commit_running(self, claim: Claim, events: Sequence[NewEvent]) -> None:
            await gates.wait_at("ready")
            await super().commit_running(claim, events)
            await gates.wait_at("running committed")

        async def add_artifact(self, claim: Claim, artifact: StoredArtifact, event: Any) -> bool:
            await gates.wait_at("uploaded")
            return await super().add_artifact(claim, artifact, event)

        async def finish(self, claim: Claim, end: AttemptResult) -> UUID | None:
            await gates.wait_at("verified")
            async with self._between_steps:
                following = await super().finish(claim, end)
                if following is not None and following != claim.step_id:
                    await gates.wait_at("between steps")
            return following

    with (
        patch.object(worker, "PostgresStepStore", GatedStepStore),
        patch.object(entry, "main", crash_runner.main),
        patch.object(entry, "template", crash_runner.template),
    ):
        # With the usual timings every cell of the matrix would wait for seconds.
        return worker.main(quick_timings.from_environment(rescue_every_s=0.3, heartbeat_s=0.3))


if __name__ == "__main__":
    raise SystemExit(main())
