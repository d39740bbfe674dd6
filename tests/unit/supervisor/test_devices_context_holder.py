"""Whether NVML's process ids are ours is tried, with real processes, and never assumed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import anyio
import psutil
import pytest
from tests.support import context_holders, nvml_helpers

from supervisor.devices import context_holder, gpu
from supervisor.devices.device import Device
from supervisor.devices.gpu import GpuProbe
from supervisor.processes.child import Entry
from supervisor.processes.worker_mark import marker_of

# A driver of three calls. `cuInit` fails where the test says so.
DRIVER = """
int cuInit(unsigned flags) { return %d; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = context; return device; }
"""


def look(context_holder_entry: Entry) -> Device:
    """The device that a probe finds; the witness must be gone by then."""

    async def main() -> Device:
        mark = f"test:{uuid4()}"
        probe = GpuProbe(
            mark, entry=nvml_helpers.lists_holders, context_holder_entry=context_holder_entry
        )
        try:
            (device,) = await probe.devices()
            assert await probe.devices() == [device]
            assert not left(f"{mark}:context_holder")
            return device
        finally:
            await probe.close()

    return anyio.run(main)


def left(marker: str) -> list[int]:
    return [p.pid for p in psutil.process_iter() if marker_of(p.pid) == marker]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a stand-in for the driver with")
    source = tmp_path / "driver.c"
    source.write_text(DRIVER % request.param)
    library = tmp_path / nvml_helpers.CUDA
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


@pytest.mark.parametrize("driver", [0], indirect=True)
@pytest.mark.usefixtures("driver")
def test_a_context_that_nvml_lists_under_our_id_says_that_ids_map() -> None:
    device = look(context_holder.main)
    assert device.pid_namespace_shared
    assert device.pid_check_result == "NVML's process ids are ours"


@pytest.mark.parametrize("driver", [100], indirect=True)
@pytest.mark.usefixtures("driver")
def test_a_driver_without_a_device_leaves_the_total_alone_to_count() -> None:
    device = look(context_holder.main)
    assert not device.pid_namespace_shared
    assert "cuInit returned CUDA error 100" in device.pid_check_result


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (context_holders.cannot, "cuInit returned CUDA error 100"),
        (context_holders.dies, "it ended"),
        (context_holders.hangs, "no context could be held within"),
        (context_holders.unseen, "not ours, which holds a context"),
    ],
)
def test_whatever_else_comes_of_it_ids_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, entry: Entry, words: str
) -> None:
    monkeypatch.setattr(gpu, "CONTEXT_HOLDER_S", 1.0 if entry is context_holders.hangs else 20.0)
    monkeypatch.setattr(gpu, "LISTED_S", 0.3)
    device = look(entry)
    assert not device.pid_namespace_shared
    assert words in device.pid_check_result
