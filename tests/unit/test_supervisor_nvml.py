"""What the NVML helper makes of the library's answers. The library itself is scripted here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from supervisor import nvml


def script(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Let functions of the library answer so; an exception is raised."""
    for name, answer in answers.items():

        def said(*_: Any, _answer: Any = answer, **__: Any) -> Any:
            value = _answer(*_) if callable(_answer) else _answer
            if isinstance(value, BaseException):
                raise value
            return value

        monkeypatch.setattr(pynvml, name, said)


def failure(value: int) -> Any:
    return pynvml.NVMLError(value)


def memory() -> SimpleNamespace:
    return SimpleNamespace(total=10, used=4, free=5, reserved=1)


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def test_a_gpu_that_is_split_is_served_by_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    absent, unsupported = pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_NOT_SUPPORTED
    script(
        monkeypatch,
        nvmlDeviceGetCount=2,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu{index}",
        nvmlDeviceGetMigMode=lambda gpu: (1, 1) if gpu == "gpu1" else failure(unsupported),
        nvmlDeviceGetMaxMigDeviceCount=3,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda gpu, i: (
            failure(absent) if i == 1 else f"{gpu}/{i}"
        ),
        nvmlDeviceGetUUID=lambda handle: f"UUID-{handle}",
        nvmlDeviceGetName="H",
        nvmlDeviceGetMemoryInfo=memory(),
        nvmlDeviceGetMPSComputeRunningProcesses=[],
    )
    found = nvml._answer({"method": "devices"})["devices"]
    assert [gpu["uuid"] for gpu in found] == ["UUID-gpu0", "UUID-gpu1/0", "UUID-gpu1/2"]
    assert not any(gpu["mps"] for gpu in found)


def test_a_client_of_mps_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    script(
        monkeypatch,
        nvmlDeviceGetUUID="UUID-a",
        nvmlDeviceGetName="H",
        nvmlDeviceGetMemoryInfo=memory(),
        nvmlDeviceGetMPSComputeRunningProcesses=[process(7, 1)],
    )
    assert nvml._describe("gpu0")["mps"] is True


def test_a_process_whose_memory_is_not_accounted_is_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(
        monkeypatch,
        nvmlDeviceGetHandleByUUID="gpu0",
        nvmlDeviceGetMemoryInfo=memory(),
        nvmlDeviceGetComputeRunningProcesses=[process(7, 3), process(8, None)],
        nvmlDeviceGetGraphicsRunningProcesses=failure(pynvml.NVML_ERROR_NOT_SUPPORTED),
    )
    assert nvml._answer({"method": "read", "uuid": "a"}) == {
        "total_bytes": 10,
        "used_bytes": 4,
        "free_bytes": 5,
        "reserved_bytes": 1,
        "holders": {"7": 3, "8": 0},
    }


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "lost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "lost"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "failed"),
    ],
)
def test_a_gpu_off_the_bus_or_in_need_of_a_reset_is_said_to_be_lost(
    monkeypatch: pytest.MonkeyPatch, value: int, kind: str
) -> None:
    script(monkeypatch, nvmlDeviceGetHandleByUUID=failure(value))
    assert nvml._answer({"method": "read", "uuid": "a"})["error"] == kind
