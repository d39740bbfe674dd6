"""How long a container must wait for a worker: one total, and the page says the same."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import anyio

from shared import timings
from shared.db import engine
from shared.db.engine import Database
from shared.settings import Settings
from shared.telemetry import spans
from shared.telemetry.spans import Tracer
from shared.timings import TIMINGS
from supervisor.devices import nvml_client
from supervisor.devices.device import DeviceProbe
from supervisor.processes import child
from supervisor.resources import close_connections
from supervisor.slots import runner_pool

PAGE = Path(__file__).resolve().parents[3] / "docs" / "worker.md"
WAITS = ("exit_grace_s", "term_grace_s", "kill_deadline_s", "reclaim_deadline_s",
         "publish_deadline_s", "lease_s")  # fmt: skip
DRAIN_S = Settings.model_fields["drain_s"].default


def test_the_page_names_the_stop_grace_of_the_defaults() -> None:
    total = TIMINGS.stop_grace_s(DRAIN_S)
    assert f"must be at least {total:g} s** (`Timings.stop_grace_s`)" in PAGE.read_text()


def test_waits_that_are_no_settings_are_those_of_whoever_waits() -> None:
    assert timings.CLAIM_IN_FLIGHT_S == engine.ANSWER_TIMEOUT_S
    assert timings.READING_IN_FLIGHT_S == nvml_client.START_S + nvml_client.END_S
    assert timings.LEAVING_S == (
        runner_pool.CLOSE_S + child.KILL_ALL_S + engine.ANSWER_TIMEOUT_S + nvml_client.END_S
    )


def test_sending_the_last_spans_goes_on_beside_a_longer_wait() -> None:
    """So it adds nothing to the total."""
    assert spans.FLUSH_S <= engine.ANSWER_TIMEOUT_S
    said, sent = threading.Event(), []

    class Part:
        async def close(self) -> None:
            said.set()

    class Spans:
        def close(self) -> None:
            sent.append(said.wait(20))  # in vain, if the good-bye came after us

    async def main() -> None:
        await close_connections(
            cast("DeviceProbe", Part()), cast("Database", Part()), cast("Tracer", Spans())
        )

    anyio.run(main)
    assert sent == [True]


def test_every_wait_after_sigterm_is_in_the_stop_grace() -> None:
    before = TIMINGS.stop_grace_s(DRAIN_S)
    assert TIMINGS.stop_grace_s(DRAIN_S + 1) == before + 1
    for name in WAITS:
        longer = replace(TIMINGS, **{name: getattr(TIMINGS, name) + 1})
        assert longer.stop_grace_s(DRAIN_S) == before + 1, name
