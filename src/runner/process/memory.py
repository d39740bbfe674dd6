"""Give back what torch holds before the step says that it is done.

This is courtesy, not proof. A living process keeps its CUDA context whatever it frees, so these
figures are the allocator's own (`allocator_*`). The worker measures whether the GPU is clean, after
this process is gone.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.protocol.messages import Device


class Memory:
    """The CUDA allocator's figures in bytes; empty on the CPU, which has no such allocator."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.figures: dict[str, int] = {}

    def read(self) -> dict[str, int]:
        """Now and at most since the last reset; nothing before the first use of the device."""
        if not _in_use(self.device):
            return {}
        free, total = torch.cuda.mem_get_info()
        return {
            "allocator_allocated_bytes": torch.cuda.memory_allocated(),
            "allocator_reserved_bytes": torch.cuda.memory_reserved(),
            "allocator_peak_bytes": torch.cuda.max_memory_allocated(),
            "allocator_peak_reserved_bytes": torch.cuda.max_memory_reserved(),
            "device_free_bytes": free,
            "device_total_bytes": total,
        }


@contextmanager
def release_memory(device: Device) -> Iterator[Memory]:
    """Release host and device memory at the end of the block, however it ended.

    Afterwards `figures` has the block's peak and what is still allocated. The caller must have
    dropped its own references; an exception that leaves the block holds some through its traceback,
    so blocks catch theirs.
    """
    memory = Memory(device)
    try:
        yield memory
    finally:
        # On the CPU the end of the process frees all, at once, and there are no figures to report.
        if _in_use(device):
            gc.collect()
            _release_cuda(memory)


def _in_use(device: Device) -> bool:
    """Reading an unused device would create the very context that a standby must not have."""
    return device == "cuda" and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _release_cuda(memory: Memory) -> None:
    try:
        peaks = memory.read()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        after = memory.read()
        torch.cuda.reset_peak_memory_stats()
    except RuntimeError as error:
        # After a fault of the device every call fails. The process is about to end, which frees
        # more than these calls could, and the outcome of the body must not be lost over them.
        sys.stderr.write(f"cleanup on the device failed: {type(error).__name__}: {error}\n")
        return
    memory.figures = peaks | {
        name: after[name] for name in ("allocator_allocated_bytes", "allocator_reserved_bytes")
    }
