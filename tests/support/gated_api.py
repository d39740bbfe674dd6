"""`python -m tests.support.gated_api`: an API that a test can hold between commit and notify."""

from __future__ import annotations


def main() -> int:
    import os
    from pathlib import Path
    from unittest.mock import patch
    from uuid import UUID

    from tests.support.gates import Gates

    from shared.settings import settings_or_exit

    settings = settings_or_exit("api")

    from api import context
    from api.dispatch import Notifier
    from api.server import serve
    from api.webhooks import deliverer

    gates = Gates(Path(os.environ["TMPDIR"]))

    class GatedNotifier(Notifier):
        def notify(self, step_id: UUID, queue: str) -> None:
            gates.wait_at_blocking("created")
            super().notify(step_id, queue)

    # What a killed api was sending is due again within a test's patience.
    quick = patch.object(deliverer, "LEASE_S", 3.0)
    with patch.object(context, "Notifier", GatedNotifier), quick:
        return serve(settings)


if __name__ == "__main__":
    raise SystemExit(main())
