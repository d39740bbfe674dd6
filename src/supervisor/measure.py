"""What a step takes of a device, measured: the real runner, the supervisor's own probe.

    for each size: start a runner -> read the device -> GO -> read it again and again -> end

The result is what a preset states: bytes that the size does not change, and bytes per pixel. Run it
on a device that nobody else uses: what others allocate meanwhile would be counted as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from runner import entry
from shared.errors import DreamForgeError
from shared.messages import Failure, GenerateSpec, Go, Ready, Result, parse_from_runner
from supervisor.devices import Device, DeviceProbe
from supervisor.fence import boottime
from supervisor.runner_process import Entry, RunnerProcess

# More often than a step's own peak (5 Hz): a small model's decode is over within 0.2 s.
SAMPLE_EVERY_S = 0.05
READY_S = 120.0


class MeasureFailed(DreamForgeError):
    """The step did not come to its end; the message is the runner's own account."""

    code = "provider_error"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """One size: pixels of the picture, and bytes of device memory above what was used before."""

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
    spec: GenerateSpec,
    *,
    mark: str,
    timeout_s: float,
    target: Entry = entry.main,
) -> Peak:
    """Run `spec` once and return its peak. Raises `MeasureFailed`, `DeviceLost`.

    The process is gone when this returns or raises.
    """
    runner = RunnerProcess(target, marker=mark, environment=device.environment)
    try:
        with anyio.fail_after(READY_S):
            await _ready(runner)
        used_before = (await probe.read(device, None)).used_bytes
        await runner.channel.send(Go(spec=spec, dies_at=boottime() + timeout_s).model_dump())
        result, peak_bytes = None, 0
        with anyio.fail_after(timeout_s):
            while result is None:
                with anyio.move_on_after(SAMPLE_EVERY_S):
                    result = await _result(runner)
                used = (await probe.read(device, runner.tree)).used_bytes
                peak_bytes = max(peak_bytes, used - used_before)
        allocator = result.allocator.get("allocator_peak_bytes", 0)
        pixels = spec.params.width * spec.params.height
        return Peak(pixels=pixels, peak_bytes=max(peak_bytes, allocator))
    except TimeoutError:
        raise MeasureFailed(f"the step did not end within {timeout_s:g} s") from None
    finally:
        with anyio.CancelScope(shield=True):
            runner.tree.kill()
            await runner.gone()
        runner.close()


def need_of(peaks: Sequence[Peak]) -> Need:
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


async def _result(runner: RunnerProcess) -> Result:
    """Read on to the verdict. May be cancelled and called again: no frame is lost by that."""
    while (frame := await runner.channel.receive()) is not None:
        match parse_from_runner(frame.header):
            case Result() as result:
                return result
            case Failure() as failure:
                raise MeasureFailed(failure.message, reason=failure.reason)
            case _:
                continue
    raise MeasureFailed("the runner ended without a result; its own words are above")
