"""Whether a live worker has a model: a job that names one that none has is refused.

Workers look at the registry and their disks with every heartbeat. A person who has just brought a
model in wants to use it, so the command waits for the next look, and says when nobody had it.
"""

from __future__ import annotations

import time
from uuid import UUID

from cli import backends
from cli.terminal.output import print_note
from shared.db.workers import live_workers

# Two heartbeats (`supervisor.membership.heartbeat.HEARTBEAT_EVERY_S`, ten seconds) and the check
# of the files between.
WAIT_S = 22.0
LOOK_EVERY_S = 0.5


def wait_until_offered(database_url: str, model_id: str) -> bool | None:
    """Wait until some live worker offers the model. None: no worker is live."""
    deadline, told = time.monotonic() + WAIT_S, False
    while True:
        live = backends.transaction(database_url, live_workers)
        if not live:
            return None
        if any(UUID(model_id) in worker.models for worker in live):
            return True
        if time.monotonic() >= deadline:
            print_note(
                "no live worker has it: is its DF_MODELS_DIR another one? Its log says what it saw"
            )
            return False
        if not told:
            print_note("waiting until a worker has looked at it")
            told = True
        time.sleep(LOOK_EVERY_S)
