"""Wait until a live worker offers a model that was installed just now.

The API refuses jobs for a model that no live worker has, and workers check the registry and their
disks with every heartbeat. So the command waits for the next one, and says when no worker had it.
"""

import time
from uuid import UUID

from cli import backends
from cli.terminal.output import print_note
from shared.db.workers import live_workers

# Two heartbeats (`Timings.heartbeat_s`) and the check of the files.
WAIT_S = 22.0
POLL_EVERY_S = 0.5


def wait_until_offered(database_url: str, model_id: str) -> bool | None:
    """Wait for a live worker that offers the model. None: no worker is live."""
    deadline, announced = time.monotonic() + WAIT_S, False
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
        if not announced:
            print_note("waiting until a worker has looked at it")
            announced = True
        time.sleep(POLL_EVERY_S)
