"""What the NVML helper makes of the library's answers. The library itself is scripted here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from tests.support import direct_nvml

from supervisor.devices import nvml_server


def script(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Let functions of the library answer so; an exception is raised."""
    for name, answer in ({"nvmlInit": None} | answers).items():

        def call(*_: Any, _answer: Any = answer, **__: Any) -> Any:
            value = _answer(*_) if callable(_answer) else _answer
            if isinstance(value, BaseException):
                raise value
            return value

        monkeypatch.setattr(pynvml, name, call)


def failure(value: int) -> Any:
    return pynvml.NVMLError(value)


def memory() -> SimpleNamespace:
    return SimpleNamespace(total=10, used=4, free=5, reserved=1)


def process(pid: int, used: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def split(places: dict[int, Any]) -> dict[str, Any]:
    """The library's answers for a GPU with MIG enabled and these instances."""
    return {
        "nvmlDeviceGetHandleByIndex": lambda index: f"gpu{index}",
        "nvmlDeviceGetMigMode": (1, 1),
        "nvmlDeviceGetMaxMigDeviceCount": 3,
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda gpu, place: places.get(
            place, failure(pynvml.NVML_ERROR_NOT_FOUND)
        ),
        "nvmlDeviceGetUUID": lambda handle: f"UUID-{handle}",
        "nvmlDeviceGetName": "H",
        "nvmlDeviceGetMemoryInfo": memory(),
        "nvmlDeviceGetMPSComputeRunningProcesses": [],
    }


def whole(**changes: Any) -> dict[str, Any]:
    unsupported = failure(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return split({}) | {"nvmlDeviceGetMigMode": unsupported} | changes


def describe(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> dict[str, Any]:
    script(monkeypatch, **answers)
    return nvml_server.answer({"method": "describe", "gpu": 1})


def test_gpus_are_counted_without_looking_at_any(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = failure(pynvml.NVML_ERROR_GPU_IS_LOST)
    script(monkeypatch, nvmlDeviceGetCount=2, nvmlDeviceGetHandleByIndex=lost)
    assert nvml_server.answer({"method": "count"}) == {"count": 2}


def test_a_gpu_that_is_not_split_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(monkeypatch, **whole()) == {
        "devices": [
            {"uuid": "UUID-gpu1", "name": "H", "total_bytes": 10, "reserved_bytes": 1, "mps": False}
        ],
    }


def test_a_name_that_is_no_utf_8_costs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    name = UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "odd")
    (device,) = describe(monkeypatch, **whole(nvmlDeviceGetName=name))["devices"]
    assert (device["name"], device["total_bytes"]) == ("unknown", 10)


def test_a_gpu_that_is_split_is_served_by_its_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = describe(monkeypatch, **split({0: "gpu1/0", 2: "gpu1/2"}))
    assert [gpu["uuid"] for gpu in answer["devices"]] == ["UUID-gpu1/0", "UUID-gpu1/2"]


def test_a_gpu_that_is_split_into_nothing_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = describe(monkeypatch, **split({}))
    assert answer == {"devices": []}


def test_an_instance_that_is_lost_is_listed_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = failure(pynvml.NVML_ERROR_GPU_IS_LOST)
    answers = split({0: "gpu1/0", 1: "gpu1/1"}) | {
        "nvmlDeviceGetMemoryInfo": lambda handle: lost if handle == "gpu1/0" else memory()
    }
    first, second = describe(monkeypatch, **answers)["devices"]
    assert first == {"uuid": "UUID-gpu1/0", "lost": "GPU is lost"}
    assert second["total_bytes"] == 10


def test_a_gpu_without_a_handle_is_lost_and_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = failure(pynvml.NVML_ERROR_GPU_IS_LOST)
    answer = describe(monkeypatch, **whole(nvmlDeviceGetHandleByIndex=lost))
    assert answer["devices"] == [{"uuid": None, "lost": "GPU is lost"}]


@pytest.mark.parametrize(
    ("clients", "mps"),
    [
        ([process(7, 1)], True),
        ([], False),
        # An older driver, a device without MPS, a container that may not ask.
        (failure(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND), False),
        (failure(pynvml.NVML_ERROR_NOT_SUPPORTED), False),
        (failure(pynvml.NVML_ERROR_NO_PERMISSION), False),
    ],
)
def test_a_client_of_mps_is_seen(monkeypatch: pytest.MonkeyPatch, clients: Any, mps: bool) -> None:
    answer = describe(monkeypatch, **whole(nvmlDeviceGetMPSComputeRunningProcesses=clients))
    assert answer["devices"][0]["mps"] is mps


def test_a_device_is_found_by_its_gpu_without_waking_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = split({0: "gpu1/0", 2: "gpu1/2"})
    script(monkeypatch, nvmlDeviceGetHandleByUUID=lambda uuid: f"by {uuid}", **answers)
    assert nvml_server.find_device(1, "UUID-gpu1/2") == "gpu1/2"
    assert nvml_server.find_device(1, "UUID-moved") == "by UUID-moved"
    assert nvml_server.find_device(None, "UUID-gpu1/2") == "by UUID-gpu1/2"


def test_a_process_whose_memory_is_not_accounted_is_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(
        monkeypatch,
        nvmlDeviceGetHandleByUUID="gpu0",
        nvmlDeviceGetMemoryInfo=memory(),
        nvmlDeviceGetComputeRunningProcesses=[process(7, 3), process(8, None)],
        nvmlDeviceGetGraphicsRunningProcesses=failure(pynvml.NVML_ERROR_NOT_SUPPORTED),
        nvmlDeviceGetMPSComputeRunningProcesses=[],
    )
    assert nvml_server.answer({"method": "read", "gpu": None, "uuid": "a"}) == {
        "total_bytes": 10,
        "used_bytes": 4,
        "free_bytes": 5,
        "reserved_bytes": 1,
        "holders": {"7": 3, "8": 0},
        "mps": False,
    }


@pytest.mark.parametrize("drawn", [None, 0, 1, 9])
def test_a_process_in_both_lists_holds_the_larger_amount(
    monkeypatch: pytest.MonkeyPatch, drawn: int | None
) -> None:
    script(
        monkeypatch,
        nvmlDeviceGetHandleByUUID="gpu0",
        nvmlDeviceGetMemoryInfo=memory(),
        nvmlDeviceGetComputeRunningProcesses=[process(7, 3)],
        nvmlDeviceGetGraphicsRunningProcesses=[process(7, drawn), process(8, 2)],
        nvmlDeviceGetMPSComputeRunningProcesses=[],
    )
    answer = nvml_server.answer({"method": "read", "gpu": None, "uuid": "a"})
    assert answer["holders"] == {"7": max(3, drawn or 0), "8": 2}


def test_the_direct_look_of_the_gpu_tests_tells_what_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(used: int, *pids: int) -> None:
        script(
            monkeypatch,
            nvmlShutdown=None,
            nvmlDeviceGetHandleByIndex="gpu0",
            nvmlDeviceGetMemoryInfo=SimpleNamespace(used=used),
            nvmlDeviceGetComputeRunningProcesses=[process(pid, 1) for pid in pids],
        )

    answers(100, 7)
    before = direct_nvml.look()
    answers(110)
    direct_nvml.assert_given_back(before, 10)
    with pytest.raises(AssertionError, match="10 bytes were not given back"):
        direct_nvml.assert_given_back(before, 9)
    answers(100, 7, 8)
    with pytest.raises(AssertionError, match=r"left on the GPU: \[8\]"):
        direct_nvml.assert_given_back(before, 10)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, "GPU is lost"),
        (pynvml.NVML_ERROR_RESET_REQUIRED, "GPU requires restart"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"),
    ],
)
def test_a_gpu_that_cannot_be_read_is_an_answer_with_the_librarys_reason(
    monkeypatch: pytest.MonkeyPatch, value: int, text: str
) -> None:
    script(monkeypatch, nvmlDeviceGetHandleByUUID=failure(value))
    assert nvml_server.answer({"method": "read", "gpu": None, "uuid": "a"}) == {"error": text}


def test_a_library_without_its_driver_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, nvmlInit=failure(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert nvml_server.answer({"method": "count"}) == {"error": "Driver Not Loaded", "absent": True}


@pytest.mark.parametrize(
    "refusal",
    [
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    ],
)
def test_a_driver_with_the_first_version_alone_is_asked_by_that(
    monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def first_version(_handle: Any, version: int | None = None) -> Any:
        if version is not None:
            raise failure(refusal)
        return SimpleNamespace(total=10, used=5, free=5)

    script(monkeypatch, **whole())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", first_version)
    (device,) = nvml_server.answer({"method": "describe", "gpu": 1})["devices"]
    assert (device["total_bytes"], device["reserved_bytes"]) == (10, 0)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(failure(pynvml.NVML_ERROR_NOT_SUPPORTED), id="refused"),
        pytest.param(SimpleNamespace(total=0, used=0, free=0, reserved=0), id="nothing"),
    ],
)
def test_a_gpu_that_shares_the_hosts_memory_is_not_lost_and_not_measured(
    monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    (device,) = describe(monkeypatch, **whole(nvmlDeviceGetMemoryInfo=memory))["devices"]
    assert device["uuid"] == "UUID-gpu1"
    assert "does not say how much memory" in device["unmeasured"]
