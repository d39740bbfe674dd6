"""Measures how much of a device a step uses: the real runner, the supervisor's own probe.

    for each size: start a runner -> read the device -> GO -> read it again and again -> end

A step that enlarges requests the picture of the step before: the profiler sends `Subject.picture`.

The result is what a preset states: bytes that do not depend on the size, and bytes per pixel. The
device must be idle: what other processes allocate meanwhile would be counted too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from runner import entry
from shared.errors import DreamForgeError
from shared.linux.clock import boottime
from shared.protocol.messages import (
    Failure,
    GenerateSpec,
    Go,
    Input,
    Ready,
    Result,
    UpscaleSpec,
    Want,
    parse_from_runner,
)
from supervisor.devices.device import Device, DeviceProbe
from supervisor.processes.child import KILL_ALL_S
from supervisor.processes.containment import Containment
from supervisor.processes.spawned import SpawnedProcess

# Faster than a step's own sampling (5 Hz): a small model's decode is over within 0.2 s.
SAMPLE_EVERY_S = 0.05
READY_S = 120.0


class MeasureFailed(DreamForgeError):
    """The step did not finish; the message is the runner's own."""

    code = "provider_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A step to run, the pixels that it makes, and the picture that it may request."""

    spec: GenerateSpec | UpscaleSpec
    pixels: int
    picture: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """One size: pixels that it makes, and bytes of device memory above the use before it."""

    pixels: int
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """The memory that a preset states for a kind of model."""

    base_bytes: int
    bytes_per_pixel: int


async def measure(
    probe: DeviceProbe,
    device: Device,
    subject: Subject,
    *,
    mark: str,
    timeout_s: float,
    containment: Containment,
) -> Peak:
    """Run the step once and return its peak. Raises `MeasureFailed`, `DeviceLost`.

    The process is gone when this returns or raises.
    """
    environment = {**device.environment, **containment.environment(device.kind)}
    runner = SpawnedProcess(entry.main, marker=mark, environment=environment)
    try:
        with anyio.fail_after(READY_S):
            await _wait_ready(runner)
        used_before = (await probe.read(device, None)).used_bytes
        await runner.channel.send(
            Go(spec=subject.spec, dies_at=boottime() + timeout_s).model_dump()
        )
        message: Result | Want | None = None
        peak_bytes = 0
        with anyio.fail_after(timeout_s):
            while not isinstance(message, Result):
                message = None
                with anyio.move_on_after(SAMPLE_EVERY_S):
                    message = await _next_message(runner)
                if isinstance(message, Want):
                    await _send_picture(runner, message, subject.picture)
                used = (await probe.read(device, runner.tree)).used_bytes
                peak_bytes = max(peak_bytes, used - used_before)
        allocator = message.allocator.get("allocator_peak_bytes", 0)
        return Peak(pixels=subject.pixels, peak_bytes=max(peak_bytes, allocator))
    except TimeoutError:
        raise MeasureFailed(f"the step did not end within {timeout_s:g} s") from None
    finally:
        if not await runner.kill_and_close(KILL_ALL_S):
            raise MeasureFailed(f"process {runner.pid} of the step does not die")


def fit_need(peaks: Sequence[Peak]) -> Need:
    """A line above every measured point, with the slope from the smallest to the largest size.

    Raises ValueError for fewer than two sizes: one point says nothing about a slope.
    """
    ordered = sorted(peaks, key=lambda peak: peak.pixels)
    first, last = ordered[0], ordered[-1]
    if first.pixels == last.pixels:
        raise ValueError("two sizes at least")
    rise = (last.peak_bytes - first.peak_bytes) / (last.pixels - first.pixels)
    per_pixel = max(0, round(rise))
    base = max(peak.peak_bytes - per_pixel * peak.pixels for peak in ordered)
    return Need(base_bytes=max(0, base), bytes_per_pixel=per_pixel)


async def _wait_ready(runner: SpawnedProcess) -> None:
    frame = await runner.channel.receive()
    if frame is None or not isinstance(parse_from_runner(frame.header), Ready):
        raise MeasureFailed("the runner did not start; its own words are above")


async def _next_message(runner: SpawnedProcess) -> Result | Want:
    """The next result or request. May be cancelled and called again: no frame is lost by that."""
    while (frame := await runner.channel.receive()) is not None:
        match parse_from_runner(frame.header):
            case Result() | Want() as message:
                return message
            case Failure() as failure:
                raise MeasureFailed(failure.message, reason=failure.reason)
            case _:
                continue
    raise MeasureFailed("the runner ended without a result; its own words are above")


async def _send_picture(runner: SpawnedProcess, request: Want, picture: bytes) -> None:
    digest = hashlib.sha256(picture).hexdigest()
    header = Input(item_index=request.item_index, sha256=digest)
    await runner.channel.send(header.model_dump(), picture)
