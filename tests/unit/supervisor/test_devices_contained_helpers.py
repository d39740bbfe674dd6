"""The processes that ask a GPU's driver, in the sandbox and out of it. The driver is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import nvml_helpers

from supervisor.devices import nvml_server
from supervisor.devices.device import DriverAbsent
from supervisor.devices.gpu import GpuProbe, may_have_gpus
from supervisor.devices.nvml_client import NvmlClient
from supervisor.processes.containment import Kernel, decide, read_kernel
from supervisor.processes.spawned import SpawnedProcess

ALL = {"read", "write", "connect", "send", "fork", "signal"}

pytestmark = pytest.mark.skipif(
    bool(read_kernel().lacking()), reason="the kernel lacks some of Landlock or seccomp"
)


def environment(mode: str, kernel: Kernel | None = None) -> dict[str, str]:
    return decide(mode, Path("/models"), kernel or read_kernel()).helper_environment()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "secret").write_text("x")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def asked(environment: Mapping[str, str], folder: Path) -> set[str]:
    async def main() -> dict[str, Any]:
        client = NvmlClient(nvml_helpers.prying, "test:pry", environment)
        try:
            return await client.call({"method": "attack", "folder": str(folder)})
        finally:
            await client.close()

    return set(anyio.run(main)["done"])


def test_a_helper_reads_writes_and_reaches_nothing(folder: Path) -> None:
    assert asked(environment("require"), folder) == set()
    assert [path.name for path in folder.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_helper_is_not_contained_where_the_runners_of_a_gpu_are_not(
    mode: str, folder: Path
) -> None:
    assert asked(environment(mode), folder) == ALL


def test_the_holder_of_a_context_is_contained_as_a_helper_is(folder: Path) -> None:
    async def main(environment: Mapping[str, str]) -> set[str]:
        holder = SpawnedProcess(
            nvml_helpers.holds_and_pries, marker="test:hold", environment=environment
        )
        try:
            frame = await holder.channel.receive()
            assert frame is not None
            return set(frame.header["error"].split())
        finally:
            assert await holder.kill_and_close(10)

    assert anyio.run(main, environment("require")) == set()
    assert anyio.run(main, environment("auto")) == ALL


@pytest.mark.skipif(may_have_gpus(), reason="there is a driver here")
def test_the_library_of_the_driver_answers_from_inside_that_there_is_none() -> None:
    """What it imports is within reach."""

    async def main() -> None:
        probe = GpuProbe("test:inside", entry=nvml_server.main, environment=environment("require"))
        try:
            await probe.count()
        finally:
            await probe.close()

    with pytest.raises(DriverAbsent):
        anyio.run(main)
