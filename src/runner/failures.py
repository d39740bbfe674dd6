"""An exception becomes a FAILURE message. The worker classifies; this only informs.

Two rules. A user's message names no path of this host and has no traceback: that goes to stderr,
which is the operator's. And only the allocator's own exception is `oom`: the text "CUDA error" is
in every fault of a device, and with `oom` a user would try smaller pictures on a broken card.
"""

import re
import sys
import traceback
from typing import Any, Literal

import torch

from runner.images.decode import InputRefused
from runner.images.sender import ImageNotSent
from runner.process.cancellation import Cancelled
from shared.errors import ModelUnavailable
from shared.protocol.messages import Failure

MAX_MESSAGE = 500
PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+~=-]+){2,}[/\\]?")
# The whole of what torch raises when malloc fails on the CPU; there is no class for it.
CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"

Reason = Literal["oom", "host_oom", "model_unavailable", "provider_error", "cancelled"]


def build_failure(
    error: Exception,
    *,
    doing: str,
    folder: str | None,
    memory: dict[str, int],
    item_index: int | None,
) -> Failure:
    """Describe `error`, print its traceback to stderr and release what its frames hold."""
    if isinstance(error, ImageNotSent) and isinstance(error.__cause__, Exception):
        # Another item is being sampled by now.
        doing, item_index, error = "encoding the picture", error.item_index, error.__cause__
    if isinstance(error, InputRefused):
        doing = "decoding an input"
    reason = reason_of(error)
    if reason != "cancelled":
        traceback.print_exception(error, file=sys.stderr)
    # The frames of the traceback still point at latents and weights.
    traceback.clear_frames(error.__traceback__)
    details: dict[str, Any] = {"doing": doing, "exception": type(error).__name__} | memory
    if isinstance(error, ModelUnavailable):
        details |= error.details
    if item_index is not None:
        details["item_index"] = item_index
    return Failure(reason=reason, message=message_of(error, reason, doing, folder), details=details)


def reason_of(error: Exception) -> Reason:
    """Which kind of failure this is, by type; by text only where torch offers no type."""
    match error:
        case Cancelled():
            return "cancelled"
        case ModelUnavailable():
            return "model_unavailable"
        case torch.OutOfMemoryError():
            return "oom"
        case MemoryError():
            return "host_oom"
        case RuntimeError() if CPU_ALLOCATOR in str(error):
            return "host_oom"
        case _:
            return "provider_error"


def message_of(error: Exception, reason: Reason, doing: str, folder: str | None) -> str:
    """One sentence for the user."""
    match reason:
        case "cancelled":
            return f"cancelled while {doing}"
        case "oom":
            return f"the GPU ran out of memory while {doing}"
        case "host_oom":
            return f"the host ran out of memory while {doing}"
        case "model_unavailable" | "provider_error":
            text = without_paths(str(error), folder) or type(error).__name__
            return text if reason == "model_unavailable" else f"error while {doing}: {text}"


def without_paths(text: str, folder: str | None) -> str:
    """The first lines of a message, with every path of this host taken out."""
    named = text if folder is None else text.replace(folder, "<model>")
    flat = " ".join(named.split())
    return PATH.sub("<path>", flat)[:MAX_MESSAGE]
