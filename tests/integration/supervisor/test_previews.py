"""Previews: made where a client looks, and of nothing else. Real runners, in-memory parts."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import anyio
from tests.support import runners
from tests.support.harness import Bench, serving, until

from shared.protocol.messages import Preview
from shared.states import Reason

JPEG = bytes.fromhex("ffd8ffe0")


class Viewers:
    """Clients that look at jobs, and what they are shown."""

    def __init__(self) -> None:
        self.jobs: set[UUID] = set()
        self.asked = 0
        self.shown: list[tuple[UUID, Preview, bytes]] = []

    async def watched(self, job_ids: Collection[UUID]) -> set[UUID]:
        self.asked += 1
        return self.jobs & set(job_ids)

    def publish(self, job_id: UUID, preview: Preview, jpeg: bytes) -> None:
        self.shown.append((job_id, preview, jpeg))


def test_a_job_is_shown_while_a_client_looks() -> None:
    viewers = Viewers()

    async def main() -> None:
        async with serving(runners.main, previews=viewers, preview_every_s=0.02) as bench:
            job = bench.submit(f"shows {JPEG.hex()}")
            await bench.running(job)
            await looked_away(viewers)
            assert viewers.shown == []
            viewers.jobs = {job}
            await until(lambda: len(viewers.shown) >= 3, "one answer to each request")
            assert {(job_id, jpeg) for job_id, _, jpeg in viewers.shown} == {(job, JPEG)}
            viewers.jobs = set()
            await looked_away(viewers)
            count = len(viewers.shown)
            await looked_away(viewers)
            assert len(viewers.shown) == count
            await cancel(bench, job)

    anyio.run(main)


def test_what_is_no_picture_costs_its_step() -> None:
    viewers = Viewers()

    async def main() -> None:
        async with serving(
            runners.main, previews=viewers, preview_every_s=0.02, max_losses=1
        ) as bench:
            job = bench.submit("shows 00ff")
            viewers.jobs = {job}
            step = await bench.ended(job)
            assert step.reason is Reason.ATTEMPTS_EXHAUSTED
            error = (step.error or {})["details"]["last_error"]
            assert error["code"] == Reason.RUNNER_CRASHED
            assert viewers.shown == []

    anyio.run(main)


async def looked_away(viewers: Viewers) -> None:
    """Until nobody has looked for some rounds."""
    asked = viewers.asked
    await until(lambda: viewers.asked >= asked + 5, "some rounds")


async def cancel(bench: Bench, job: UUID) -> None:
    bench.store.request_cancel(job)
    assert (await bench.ended(job)).reason is Reason.CANCELLED
