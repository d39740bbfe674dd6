"""What a step takes of a device, measured: the real runner, the supervisor's own probe.

    for each size: start a runner -> read the device -> GO -> read it again and again -> end

A step that enlarges asks for the picture of the step before; it is given `Subject.picture`.

The result is what a preset states: bytes that the size does not change, and bytes per pixel. Run it
on a device that nobody else uses: what others allocate meanwhile would be counted as ours.
"""

from __future__ import annotations

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
from supervisor.processes.child import Entry, RunnerProcess

# More often than a step's own peak (5 Hz): a small model's decode is over within 0.2 s.
SAMPLE_EVERY_S = 0.05
READY_S = 120.0


class MeasureFailed(DreamForgeError):
    """The step did not come to its end; the message is the runner's own account."""

    code = "provider_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A step to run, the pixels that it makes, and the file that one of its kind may ask for."""

    spec: GenerateSpec | UpscaleSpec
    pixels: int
    picture: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """One size: pixels that are made, and bytes of device memory above what was used before."""

    pixels: int
    peak_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What a preset states for a kind of model."""

    base_bytes: int
    bytes_per_pixel: int


async def measure(
    probe: DeviceProbe,
    device: Device,
    subject: Subject,
    *,
    mark: str,
    timeout_s: float,
    target: Entry = entry.main,
) -> Peak:
    """Run the step once and return its peak. Raises `MeasureFailed`, `DeviceLost`.

    The process is gone when this returns or raises.
    """
    runner = RunnerProcess(target, marker=mark, environment=device.environment)
    try:
        with anyio.fail_after(READY_S):
            await _ready(runner)
        used_before = (await probe.read(device, None)).used_bytes
        await runner.channel.send(
            Go(spec=subject.spec, dies_at=boottime() + timeout_s).model_dump()
        )
        heard: Result | Want | None = None
        peak_bytes = 0
        with anyio.fail_after(timeout_s):
            while not isinstance(heard, Result):
                heard = None
                with anyio.move_on_after(SAMPLE_EVERY_S):
                    heard = await _heard(runner)
                if isinstance(heard, Want):
                    await _give(runner, heard, subject.picture)
                used = (await probe.read(device, runner.tree)).used_bytes
                peak_bytes = max(peak_bytes, used - used_before)
        allocator = heard.allocator.get("allocator_peak_bytes", 0)
        return Peak(pixels=subject.pixels, peak_bytes=max(peak_bytes, allocator))
    except TimeoutError:
        raise MeasureFailed(f"the step did not end within {timeout_s:g} s") from None
    finally:
        with anyio.CancelScope(shield=True):
            runner.tree.kill()
            await runner.wait_gone()
        runner.close()


def fit_need(peaks: Sequence[Peak]) -> Need:
    """The line that lies over every measured point, through the smallest and the largest size.

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


async def _ready(runner: RunnerProcess) -> None:
    frame = await runner.channel.receive()
    if frame is None or not isinstance(parse_from_runner(frame.header), Ready):
        raise MeasureFailed("the runner did not start; its own words are above")


async def _heard(runner: RunnerProcess) -> Result | Want:
    """Read on to what concerns us. May be cancelled and called again: no frame is lost by that."""
    while (frame := await runner.channel.receive()) is not None:
        match parse_from_runner(frame.header):
            case Result() | Want() as heard:
                return heard
            case Failure() as failure:
                raise MeasureFailed(failure.message, reason=failure.reason)
            case _:
                continue
    raise MeasureFailed("the runner ended without a result; its own words are above")


async def _give(runner: RunnerProcess, wish: Want, picture: bytes) -> None:
    digest = hashlib.sha256(picture).hexdigest()
    given = Input(item_index=wish.item_index, sha256=digest)
    await runner.channel.send(given.model_dump(), picture)
