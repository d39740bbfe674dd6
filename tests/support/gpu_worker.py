"""A worker, `python -m tests.support.gpu_worker`, on a host whose NVML lists two GPUs.

It is the real one, with a helper that answers for the driver. Import-light, since spawn imports
this again in every helper.
"""

from __future__ import annotations


def main() -> int:
    from unittest.mock import patch

    from tests.support import context_holders, nvml_helpers, quick_timings, runners

    from runner import entry
    from shared.settings import Settings
    from supervisor import resources, worker
    from supervisor.devices.discovery import CombinedProbe
    from supervisor.devices.gpu import GpuProbe
    from supervisor.devices.ownership import DeviceLocks

    def open_probe(
        settings: Settings, worker_mark: str, locks: DeviceLocks, **_options: object
    ) -> CombinedProbe:
        gpus = GpuProbe(
            worker_mark, entry=nvml_helpers.healthy, context_holder_entry=context_holders.cannot
        )
        return CombinedProbe({"cuda": gpus}, locks)

    with (
        patch.object(resources, "open_probe", open_probe),
        patch.object(entry, "main", runners.main),
    ):
        return worker.main(quick_timings.from_environment(heartbeat_s=0.5))


if __name__ == "__main__":
    raise SystemExit(main())
