"""What NVML says of the first GPU, asked here: a witness that shares no code with the product."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Bytes in use, the driver's own included; and who is listed, by ids that may be the host's."""

    used_bytes: int
    pids: frozenset[int]


def look() -> Seen:
    """One reading of the first GPU. It takes no context, so it is not in its own picture."""
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        listed = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return Seen(
            used_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).used,
            pids=frozenset(process.pid for process in listed),
        )
    finally:
        pynvml.nvmlShutdown()


def assert_given_back(before: Seen, epsilon_bytes: int) -> None:
    """Nobody is on the GPU who was not there before, and no more of it is in use."""
    now = look()
    assert now.pids <= before.pids, f"left on the GPU: {sorted(now.pids - before.pids)}"
    left = now.used_bytes - before.used_bytes
    assert left <= epsilon_bytes, f"{left} bytes were not given back"
