"""The helper process that talks to NVML, and the only file that imports it.

NVML calls into the driver, and a wedged GPU can hold such a call for minutes, uninterruptibly. In
this process that costs a restart; in the supervisor it would cost every other GPU of the host. The
protocol is one request frame, one answer frame, one at a time.

    {"method": "devices"}              {"devices": [{uuid, index, name, total_bytes}]}
    {"method": "read", "uuid": ...}    {"total_bytes", "used_bytes", "free_bytes",
                                        "reserved_bytes", "holders"}
    anything that fails                {"error": "lost" | "failed", "message": ...}
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pynvml

from runner.entry import become_runner, leave
from shared.frames import FrameDecoder, encode

# After these the device is unusable until somebody resets it or the host.
_LOST = {
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_UNKNOWN,
}


def main(connection: Connection, parent_pid: int) -> None:
    """Serve requests until the supervisor's end closes; never returns."""
    become_runner(parent_pid)
    with socket.socket(fileno=connection.fileno()) as sock:
        decoder = FrameDecoder()
        pynvml.nvmlInit()
        while data := sock.recv(1 << 16):
            for frame in decoder.feed(data):
                sock.sendall(encode(_answer(frame.header)))
    leave(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request["method"] == "devices":
            return {"devices": [_describe(handle) for handle in _handles()]}
        return _read(pynvml.nvmlDeviceGetHandleByUUID(request["uuid"]))
    except pynvml.NVMLError as error:
        kind = "lost" if error.value in _LOST else "failed"
        return {"error": kind, "message": str(error)}


def _handles() -> list[Any]:
    """One handle per GPU, or per MIG instance where a GPU is split."""
    found: list[Any] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        instances = _mig_instances(gpu)
        found.extend(instances or [gpu])
    return found


def _mig_instances(gpu: Any) -> list[Any]:
    with suppress(pynvml.NVMLError):  # "not supported" on everything but data centre cards
        if pynvml.nvmlDeviceGetMigMode(gpu)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return []
        instances = []
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(pynvml.NVMLError):  # places that hold no instance
                instances.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
        return instances
    return []


def _describe(handle: Any) -> dict[str, Any]:
    return {
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "total_bytes": _memory(handle).total,
        "mps": bool(_list(pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle)),
    }


def _read(handle: Any) -> dict[str, Any]:
    memory = _memory(handle)
    holders: dict[str, int] = {}
    for listing in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for process in _list(listing, handle):
            # None on systems that do not account per process: present, amount unknown.
            holders[str(process.pid)] = process.usedGpuMemory or 0
    return {
        "total_bytes": memory.total,
        "used_bytes": memory.used,
        "free_bytes": memory.free,
        "reserved_bytes": memory.reserved,
        "holders": holders,
    }


def _memory(handle: Any) -> Any:
    """Version 2 counts the driver's reserve apart from `used`; deltas need one version."""
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


def _list(listing: Callable[[Any], list[Any]], handle: Any) -> list[Any]:
    try:
        return listing(handle)
    except pynvml.NVMLError_NotSupported:
        return []
