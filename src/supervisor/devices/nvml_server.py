"""The helper process that calls NVML, and the only module that imports it.

NVML calls into the driver, and a wedged GPU can block such a call for minutes, uninterruptibly.
Here that costs one restart; in the supervisor it would block every other GPU of the host. The
protocol is one request frame, one answer frame, one at a time.

    {"method": "count"}                {"count"}: GPUs, by NVML's index
    {"method": "describe", "gpu"}      {"devices": [{uuid, name, total_bytes, reserved_bytes, mps}
                                                    or {uuid, name, unmeasured: why}
                                                    or {uuid or null, lost: why}]},
                                       none of a GPU that is split into no instance
    {"method": "read", "gpu", "uuid"}  {"total_bytes", "used_bytes", "free_bytes",
                                        "reserved_bytes", "holders", "mps"}
    anything that fails                {"error": what the library says of it, "absent"}: true
                                       where there is no driver at all
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pynvml

from shared.linux.child import exit_now, isolate_process
from shared.linux.sandbox import contain_helper
from shared.protocol.frames import FrameDecoder, encode

# A driver older than the function, a device without it, a container that may not ask.
_NOT_KNOWN = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_FunctionNotFound,
    pynvml.NVMLError_NoPermission,
)

_ABSENT = (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)
# What a driver says that has only version 1 of the question about memory.
_OLDER = (
    *_NOT_KNOWN,
    pynvml.NVMLError_InvalidArgument,
    pynvml.NVMLError_ArgumentVersionMismatch,
)
_UNMEASURED = (
    "NVML does not say how much memory it has, as of GPUs that share the host's: nothing could be "
    "verified on it"
)


def main(connection: Connection, parent_pid: int) -> None:
    """Serve requests until the supervisor's end closes; never returns."""
    isolate_process(parent_pid)
    contain_helper()
    with socket.socket(fileno=connection.fileno()) as sock:
        decoder = FrameDecoder()
        while data := sock.recv(1 << 16):
            for frame in decoder.feed(data):
                sock.sendall(encode(answer(frame.header)))
    exit_now(0)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        pynvml.nvmlInit()  # the library counts calls: a second one does nothing
        match request["method"]:
            case "count":
                return {"count": pynvml.nvmlDeviceGetCount()}
            case "describe":
                return {"devices": _describe(request["gpu"])}
            case _:
                return _read(find_device(request["gpu"], request["uuid"]))
    except pynvml.NVMLError as error:
        return {"error": str(error)} | ({"absent": True} if isinstance(error, _ABSENT) else {})


def _describe(gpu: int) -> list[dict[str, Any]]:
    try:
        return [_describe_one(handle) for handle in _handles(gpu)]
    except pynvml.NVMLError as error:
        return [{"uuid": None, "lost": str(error)}]


def _describe_one(handle: Any) -> dict[str, Any]:
    uuid = None
    try:
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        name = _name(handle)
        memory = None
        with suppress(pynvml.NVMLError_NotSupported):
            memory = _memory(handle)
        if memory is None or not memory.total:  # some that share the host's say 0
            return {"uuid": uuid, "name": name, "unmeasured": _UNMEASURED}
        return {
            "uuid": uuid,
            "name": name,
            "total_bytes": memory.total,
            "reserved_bytes": _reserved(memory),
            "mps": _under_mps(handle),
        }
    except pynvml.NVMLError as error:
        return {"uuid": uuid, "lost": str(error)}


def _name(handle: Any) -> str:
    try:
        return str(pynvml.nvmlDeviceGetName(handle))
    except UnicodeError:  # the library decodes what the driver has
        return "unknown"


def _handles(gpu: int) -> list[Any]:
    """The GPU; where it is split its instances, since then the whole cannot be used."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpu)
    if not _is_split(handle):
        return [handle]
    instances = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(pynvml.NVMLError_NotFound):  # no instance at this index
            instances.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return instances


def _is_split(handle: Any) -> bool:
    with suppress(*_NOT_KNOWN):  # everything but data centre cards
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    return False


def find_device(gpu: int | None, uuid: str) -> Any:
    """The device by its GPU's index if it is still there: a search by UUID wakes all GPUs."""
    if gpu is not None:
        for handle in _handles(gpu):
            if pynvml.nvmlDeviceGetUUID(handle) == uuid:
                return handle
    return pynvml.nvmlDeviceGetHandleByUUID(uuid)


def _read(handle: Any) -> dict[str, Any]:
    memory = _memory(handle)
    holders: dict[str, int] = {}
    for listing in (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for process in _list(listing, handle):
            # None on systems that do not account per process: present, amount unknown. A process
            # that computes and draws is in both lists, and each may show less than all its memory.
            held_bytes = process.usedGpuMemory or 0
            holders[str(process.pid)] = max(held_bytes, holders.get(str(process.pid), 0))
    return {
        "total_bytes": memory.total,
        "used_bytes": memory.used,
        "free_bytes": memory.free,
        "reserved_bytes": _reserved(memory),
        "holders": holders,
        "mps": _under_mps(handle),
    }


def _memory(handle: Any) -> Any:
    """Version 2 counts the driver's reserve apart from `used`; version 1 where that is all.

    A driver answers one of the two whenever it is asked, and deltas need one version.
    """
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except _OLDER:
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _reserved(memory: Any) -> int:
    """What the driver keeps for itself; in version 1 it is among what is used."""
    return int(getattr(memory, "reserved", 0))


def _under_mps(handle: Any) -> bool:
    return bool(_list(pynvml.nvmlDeviceGetMPSComputeRunningProcesses, handle))


def _list(listing: Callable[[Any], list[Any]], handle: Any) -> list[Any]:
    """Processes; none where the driver has no such list. Then only totals are compared."""
    try:
        return listing(handle)
    except _NOT_KNOWN:
        return []
