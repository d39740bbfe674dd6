"""A process that only holds a CUDA context: the worker checks which pid NVML lists for it.

In a container NVML often lists the host's process ids, and no property of the system shows reliably
whether it does. So the worker tries it. The library is called through ctypes, since a context needs
no torch, and in a process of its own, since it holds memory until its process ends.

One frame, {"holding": true} or {"error": "what failed"}; then it waits until it is killed.
"""

import ctypes
import socket
from multiprocessing.connection import Connection

from shared.linux.child import exit_now, isolate_process
from shared.linux.sandbox import contain_helper
from shared.protocol.frames import encode

_LIBRARY = "libcuda.so.1"


class CudaError(Exception):
    """A driver call did not return CUDA_SUCCESS."""


def main(connection: Connection, parent_pid: int) -> None:
    """Hold the primary context of the first visible device until the other end closes."""
    isolate_process(parent_pid)
    contain_helper()
    with socket.socket(fileno=connection.fileno()) as sock:
        try:
            hold_context()
        except (OSError, AttributeError, CudaError) as error:
            sock.sendall(encode({"error": str(error)}))
        else:
            sock.sendall(encode({"holding": True}))
        sock.recv(1)
    exit_now(0)


def hold_context() -> None:
    """Create a context on device 0: `CUDA_VISIBLE_DEVICES` names one device."""
    cuda = ctypes.CDLL(_LIBRARY)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(cuda, "cuInit", 0)
    _call(cuda, "cuDeviceGet", ctypes.byref(device), 0)
    _call(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)


def _call(cuda: ctypes.CDLL, name: str, *arguments: object) -> None:
    result = getattr(cuda, name)(*arguments)
    if result != 0:
        raise CudaError(f"{name} returned CUDA error {result}")
