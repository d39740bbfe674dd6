"""A GPU is never left dirty: the promise of OR-001 on a real device.

The same supervisor, kill chain and verification that the CPU suites test, with NVML as the witness
and CUDA in the runners. `make test-gpu` runs it; it needs torch, anyio, psutil, nvidia-ml-py,
pytest and pytest-timeout (with pydantic-settings and prometheus-client), no database, broker or
store. Each test prints what NVML showed before, at the peak and after, and how long the memory took
to come back.

The GPU must be ours alone where NVML's process ids are not ours (a container).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psutil
import pytest
from tests.support import cuda_runners, direct_nvml
from tests.support.harness import Bench, serving, until
from tests.support.places import CUDA_PRESET, OneGpu

from shared.events import Code
from shared.states import Reason, StepState
from supervisor.devices.gpu import EPSILON_BYTES
from supervisor.processes.tree import ProcessTree, all_pids

NO_DRIVER = not Path("/proc/driver/nvidia/version").exists()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NO_DRIVER, reason="no NVIDIA driver on this machine"),
]


def serve(test: Callable[[Bench, OneGpu], Awaitable[None]], **options: Any) -> None:
    """Run a test on one GPU. CUDA's first call takes seconds, so the graces are longer here."""
    usual: dict[str, Any] = {
        "preset": CUDA_PRESET,
        "timeout_s": 120.0,
        "max_attempts": 1,
        "term_grace_s": 1.0,
        "reclaim_deadline_s": 30.0,
        "device": "cuda",
    }

    async def main() -> None:
        probe = OneGpu(f"test:{uuid4()}")
        try:
            async with serving(cuda_runners.main, probe=probe, **(usual | options)) as bench:
                await bench.in_state("free")
                await test(bench, probe)
        finally:
            await probe.close()

    before = direct_nvml.look()
    anyio.run(main)
    direct_nvml.assert_given_back(before, EPSILON_BYTES)


async def end(bench: Bench, prompt: str, held_bytes: int = cuda_runners.HELD_BYTES) -> Any:
    """Run one step to its end; assert by NVML's word that its memory came back."""
    job = bench.submit(prompt)
    await bench.ended(job)
    await bench.in_state("free")
    report(bench, job)
    figures = bench.payload(job, Code.STEP_FINISH)
    before, after = figures["gpu_mem_used_before"], figures["gpu_mem_used_after"]
    assert figures["peak_gpu_mem_used"] >= before + held_bytes
    assert after <= before + EPSILON_BYTES
    return job


def report(bench: Bench, job: Any) -> None:
    figures = bench.payload(job, Code.STEP_FINISH)
    mib = {name: (figures[name] or 0) >> 20 for name in figures if "gpu_mem" in name}
    step = bench.step(job)
    print(  # the evidence: `docs/gpu-evidence.md` keeps it
        f"\n{step.work.params['prompt']}: {step.reason}"
        f" before={mib['gpu_mem_used_before']} MiB peak={mib['peak_gpu_mem_used']} MiB"
        f" after={mib['gpu_mem_used_after']} MiB reclaimed in {figures['reclaim_seconds']} s"
        f" signals={figures['signals']}"
    )


def test_memory_is_back_after_success() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = await end(bench, "holds")
        assert bench.step(job).state is StepState.SUCCEEDED
        assert bench.signals(job) == []

    serve(test)


def test_memory_is_back_after_an_out_of_memory() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = await end(bench, "takes_all")
        step = bench.step(job)
        assert (step.reason, step.attempt) == (Reason.OOM, 1)
        error, device = step.error or {}, bench.slot.device
        assert error["code"] == "oom"
        details = error["details"]
        assert details["preset"] == f"{CUDA_PRESET['name']}@{CUDA_PRESET['version']}"
        # All that could be had was had, in blocks of a GiB; and it was nearly all of the device.
        assert device.total_bytes >= details["peak_bytes"] >= 0.9 * details["available_bytes"]
        assert details["available_bytes"] > 0.5 * device.total_bytes
        assert not set(details["holders"]) & {str(pid) for pid in all_pids()}
        assert details["recommendation"]

    serve(test, max_attempts=3)


def test_memory_is_back_after_a_hang_in_a_kernel() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = bench.submit("spins_in_kernel")
        await bench.running(job)
        bench.store.request_cancel(job)
        await bench.ended(job)
        await bench.in_state("free")
        report(bench, job)
        figures = bench.payload(job, Code.STEP_FINISH)
        step = bench.step(job)
        assert (step.state, step.reason) == (StepState.CANCELLED, Reason.CANCELLED)
        assert bench.signals(job) == ["SIGTERM", "SIGKILL"]  # no Python runs that could be asked
        assert figures["peak_gpu_mem_used"] > figures["gpu_mem_used_before"]
        assert figures["gpu_mem_used_after"] <= figures["gpu_mem_used_before"] + EPSILON_BYTES

    serve(test)


def test_memory_is_back_after_a_runner_that_ignores_sigterm() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = await end(bench, "holds_and_ignores")
        assert bench.step(job).reason is Reason.TIMEOUT
        assert bench.signals(job) == ["SIGTERM", "SIGKILL"]

    serve(test, timeout_s=15.0)


def test_memory_is_back_after_an_early_exit() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = await end(bench, "holds_and_leaves")
        assert bench.step(job).reason is Reason.ATTEMPTS_EXHAUSTED
        assert bench.signals(job) == []

    serve(test)


def test_memory_is_back_after_a_kill_with_pinned_host_memory() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = bench.submit("pins")
        await bench.running(job)
        for process in bench.processes():
            process.kill()
        await bench.ended(job)
        await bench.in_state("free")
        report(bench, job)
        figures = bench.payload(job, Code.STEP_FINISH)
        error = bench.step(job).error or {}
        assert error["code"] == Reason.ATTEMPTS_EXHAUSTED
        last_error = error["details"]["last_error"]
        assert last_error["code"] == Reason.RUNNER_CRASHED
        assert last_error["details"]["exit"] == "SIGKILL"
        before, peak = figures["gpu_mem_used_before"], figures["peak_gpu_mem_used"]
        assert peak >= before + cuda_runners.HELD_BYTES
        assert figures["gpu_mem_used_after"] <= figures["gpu_mem_used_before"] + EPSILON_BYTES

    serve(test)


def test_a_second_step_finds_what_the_first_one_found() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        first, second = await end(bench, "holds"), await end(bench, "holds")
        one, two = (bench.payload(job, Code.STEP_FINISH) for job in (first, second))
        assert two["gpu_mem_used_before"] <= one["gpu_mem_used_before"] + EPSILON_BYTES

    serve(test)


def test_a_slot_is_quarantined_while_memory_is_held_and_returns() -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        job = bench.submit("holds_until_asked")
        await bench.running(job)
        probe.extra_bytes = 2 * EPSILON_BYTES
        bench.store.request_cancel(job)
        await bench.ended(job)
        assert bench.slot.state == "quarantined"
        assert bench.payload(job, Code.GPU_NOT_RECLAIMED)["leaked_bytes"] > 0
        probe.extra_bytes = 0
        await bench.in_state("free")
        await until(lambda: bench.slot.state == "free", "back in service")
        await end(bench, "holds")

    serve(test, reclaim_deadline_s=3.0)


def test_a_slot_is_quarantined_while_a_process_holds_memory_that_sigkill_does_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench, probe: OneGpu) -> None:
        before = direct_nvml.look()
        with monkeypatch.context() as patched:
            patched.setattr(ProcessTree, "kill", lambda tree: None)
            job = bench.submit("holds_and_ignores")
            await bench.ended(job)
            assert bench.step(job).reason is Reason.TIMEOUT
            (survivor,) = bench.processes()
            assert bench.payload(job, Code.UNKILLABLE) == {"pids": [survivor.pid]}
            assert bench.payload(job, Code.GPU_NOT_RECLAIMED)["leaked_bytes"] > 0
            held = direct_nvml.look().used_bytes - before.used_bytes
            assert held >= cuda_runners.HELD_BYTES
            assert bench.slot.state == "quarantined"
        survivor.kill()
        await bench.in_state("free")
        direct_nvml.assert_given_back(before, EPSILON_BYTES)
        await end(bench, "holds")

    serve(test, timeout_s=15.0, kill_deadline_s=0.5, reclaim_deadline_s=3.0)


def test_a_standby_holds_nothing_of_the_device_before_go() -> None:
    before = direct_nvml.look()

    async def test(bench: Bench, probe: OneGpu) -> None:
        await until(lambda: any(map(has_torch, bench.processes())), "a standby with torch")
        (standby,) = bench.processes()
        for _ in range(30):  # its imports end in here, and a context would show
            await anyio.sleep(0.1)
            direct_nvml.assert_given_back(before, EPSILON_BYTES)
        job = await end(bench, "holds")
        assert bench.step(job).state is StepState.SUCCEEDED
        assert not standby.is_running()  # it was the runner

    serve(test, standby=True)


def has_torch(process: psutil.Process) -> bool:
    return "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
