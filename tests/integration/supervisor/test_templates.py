"""Templates: what a forked runner has of its own, and what a template that misbehaves costs."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psutil
import pytest
from tests.support import harness
from tests.support.harness import DEADLINE_S, Bench, marked, metric, serve, until
from tests.support.probes import HostProbe
from tests.support.template_imports import HELD_BYTES, STRANGER

from cli.models.install import bundled_models
from runner import entry
from shared.events import Code
from shared.models.descriptor import PartSize
from shared.models.stamp import Stamp, stamp_of
from shared.models.verify import read_model
from shared.states import Reason, StepState
from shared.step_store import PinnedModel
from supervisor.processes.tree import is_alive
from supervisor.processes.worker_mark import marker_of
from supervisor.templates import model_template, template, templates
from supervisor.templates import places as places_module
from supervisor.templates.template import FailureReason, TemplateState

LARGE = PartSize(numbers=HELD_BYTES // 4, largest=1)  # in float32
SECRET = "a-prompt-that-no-other-process-may-know"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def model(models: Path, name: str) -> PinnedModel:
    """A model whose folder is there; its name is what its template does with it."""
    (models / name).mkdir(parents=True, exist_ok=True)
    (models / name / "model.safetensors").write_bytes(b"weights")
    parts = {"unet": LARGE} if name.startswith("large") else {}
    return PinnedModel(
        id=uuid4(), name=name, version="1", kind="sd", checkpoint_sha256="0" * 64, parts=parts
    )


def run(test: Any, models: Path, **options: Any) -> None:
    serve(test, runner_start="template", models_folder=models, **options)


def warm(bench: Bench) -> set[str]:
    """The models that a runner can be forked with now."""
    return {
        each.spec.model.name
        for each in bench.runners.templates
        if each.spec is not None and each.state is TemplateState.READY
    }


def is_warm_alone(bench: Bench, name: str) -> bool:
    return warm(bench) == {name}


def failures(bench: Bench, reason: FailureReason) -> float:
    return metric(bench, "dreamforge_template_failures_total", reason=reason) or 0.0


def starts(bench: Bench, result: str) -> float:
    return metric(bench, "dreamforge_warm_starts_total", result=result) or 0.0


def waits_with_model(bench: Bench) -> list[psutil.Process]:
    waiting = (place.waiting for place in bench.runners._places.values())
    return [psutil.Process(each.process.pid) for each in waiting if each and each.model]


def template_of(bench: Bench, name: str) -> template.Template:
    assert bench.runners._templates is not None
    models = bench.runners._templates._models.values()
    (found,) = (each._template for each in models if each.spec.model.name == name)
    assert found is not None
    return found


async def succeed(bench: Bench, **work: Any) -> None:
    """Run one step with no loss, whatever the templates do."""
    step = await bench.ended(bench.submit("quick", **work))
    assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)


# What a forked runner has of its own --------------------------------------------------------------


def test_a_forked_runner_is_the_worker_s_child_and_shares_nothing(models: Path) -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 2, "a runner that waits for each slot")
        first, second = bench.processes()
        (parent,) = bench.template_pids()
        everyone = (parent, first.pid, second.pid)
        assert len({marker_of(pid) for pid in everyone}) == 3
        assert [os.getsid(pid) for pid in everyone] == list(everyone)
        assert [psutil.Process(pid).ppid() for pid in everyone] == [os.getpid()] * 3
        assert [len(psutil.Process(pid).threads()) for pid in everyone] == [1, 1, 1]
        assert [signals(pid) for pid in (first.pid, second.pid)] == [ONLY_PYTHONS_OWN] * 2
        for one, other in ((first.pid, second.pid), (first.pid, parent)):
            assert not own_files(one) & own_files(other)
        assert [len(own_files(pid)) for pid in (first.pid, second.pid)] == [2, 2]
        for pid in everyone:
            environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
            assert sum(entry.startswith("DREAMFORGE_RUNNER=") for entry in environment) == 1

    run(test, models, slots=2, standby=True)


# Of /proc/<pid>/status: blocked, ignored and caught. Python ignores two and catches SIGINT.
IGNORED = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
ONLY_PYTHONS_OWN = (0, IGNORED, 0)
# What libc keeps for its threads: no program of ours can set them, and children inherit them.
OF_LIBC = 1 << (32 - 1) | 1 << (33 - 1)


def signals(pid: int) -> tuple[int, ...]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return tuple(int(fields[name], 16) & ~OF_LIBC for name in ("SigBlk", "SigIgn", "SigCgt"))


def own_files(pid: int) -> set[str]:
    """Its channel and its output: all that is open but the null device and the pipe of
    multiprocessing's tracker, which is one for all children of a worker."""
    links = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return links - {os.devnull} - tracker()


def tracker() -> set[str]:
    from multiprocessing import resource_tracker

    fd = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    return {os.readlink(f"/proc/self/fd/{fd}")}


def test_nothing_of_a_request_is_in_a_template_or_in_the_next_runner(
    models: Path, tmp_path: Path
) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(f"waits_for {tmp_path / SECRET}", model=model(models, "tiny"))
        await bench.running(job)
        (runner,) = bench.processes()
        assert SECRET.encode() in memory(runner.pid)  # so it would be found
        (tmp_path / SECRET).touch()
        await bench.ended(job)
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        templates = list(bench.template_pids())
        newest = max(marker_of(pid) or "" for pid in templates)  # markers are numbered

        def later() -> list[int]:
            return [each.pid for each in bench.processes() if (marker_of(each.pid) or "") > newest]

        await until(later, "a runner that was forked from it waits")
        for pid in (*later(), *templates):
            assert SECRET.encode() not in memory(pid)

    run(test, models, standby=True)


def memory(pid: int) -> bytes:
    """All that a process can write to."""
    pieces = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, mode, *_ = line.split()
            if mode.startswith("rw"):
                begin, end = (int(address, 16) for address in addresses.split("-"))
                file.seek(begin)
                pieces.append(file.read(end - begin))
    return b"".join(pieces)


def test_a_runner_that_a_tree_collected_counts_as_killed(models: Path) -> None:
    async def test(bench: Bench) -> None:
        runner = await bench.runners.acquire(bench.slot.device, None)
        os.kill(runner.pid, signal.SIGKILL)
        os.waitpid(runner.pid, 0)  # as a tree does with a member that has ended
        assert runner.exitcode == -signal.SIGKILL
        runner.close()

    run(test, models)


def test_two_runners_of_one_template_draw_different_numbers(models: Path) -> None:
    async def test(bench: Bench) -> None:
        jobs = [bench.submit("draws") for _ in range(2)]
        for job in jobs:
            await bench.ended(job)
        first, second = (bench.payload(job, Code.RUNNER_LOG)["data"] for job in jobs)
        assert first.keys() == second.keys() == {"random", "numpy", "torch"}
        assert not set(first.values()) & set(second.values())

    run(test, models, imports="tests.support.template_with_torch")


def test_a_seed_gives_the_same_bytes_however_the_runner_was_started() -> None:
    folder = bundled_models()[0]
    found = read_model(folder)
    demo = PinnedModel(
        id=uuid4(),
        name=folder.name,
        version=found.version,
        kind=found.kind,
        checkpoint_sha256=found.checkpoint_sha256,
        parts=found.parts,
    )
    params = {**found.defaults.model_dump(), "prompt": "a red apple", "seed": 7, "count": 1}
    made: list[str] = []

    async def draw(bench: Bench) -> None:
        job = bench.submit("", model=demo, params=params | {"embed_metadata": False})
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        made.extend(artifact.sha256 for artifact in bench.job(job).artifacts.values())

    async def draw_warm(bench: Bench) -> None:
        await draw(bench)  # forked from the template without a model
        await until(lambda: warm(bench) == {demo.name}, "the model is warm")
        await draw(bench)
        await draw(bench)
        assert starts(bench, "hit") == 2

    options: dict[str, Any] = {"entry": entry.main, "models_folder": folder.parent}
    serve(draw, runner_start="spawn", **options)
    serve(draw_warm, runner_start="template", imports="runner.template.imports", **options)
    assert len(made) == 4 and len(set(made)) == 1


# What is warm -------------------------------------------------------------------------------------


def test_a_model_is_made_warm_for_the_step_that_is_due_next(models: Path, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        busy = bench.submit(f"waits_for {tmp_path / 'go'}", model=model(models, "first"))
        await bench.running(busy)
        next_one = bench.submit("quick", model=model(models, "second"))
        bench.store.pass_time(0)
        (tmp_path / "go").touch()
        await bench.ended(next_one)
        last = bench.submit("quick", model=bench.step(next_one).work.model)
        await until(lambda: "second" in warm(bench), "its model is warm")
        await bench.ended(last)

    run(test, models)


def test_a_model_stays_warm_for_the_next_step(models: Path) -> None:
    async def test(bench: Bench) -> None:
        tiny = model(models, "tiny")
        await succeed(bench, model=tiny)
        assert (starts(bench, "hit"), starts(bench, "miss")) == (0, 1)
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        await succeed(bench, model=tiny)
        assert (starts(bench, "hit"), starts(bench, "miss")) == (1, 1)

    run(test, models)


def test_the_series_say_what_is_warm(models: Path) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench, model=model(models, "large"))
        await until(lambda: warm(bench) == {"large"}, "the model is warm")
        assert metric(bench, "dreamforge_templates", state="ready") == 2
        assert (metric(bench, "dreamforge_warm_bytes") or 0) >= HELD_BYTES
        forks = metric(bench, "dreamforge_template_forks_total") or 0
        await succeed(bench, model=model(models, "large-too"))
        assert metric(bench, "dreamforge_template_forks_total") == forks + 1
        await bench.runners.make_room(1 << 40, None)
        await until(lambda: metric(bench, "dreamforge_warm_bytes") == 0, "nothing is warm")
        await until(lambda: metric(bench, "dreamforge_templates", state="ready") == 1, "one")

    run(test, models, warm_bytes=48 << 20)


def test_the_least_recently_used_model_goes_where_two_have_no_room(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "STAY_S", 0.0)

    async def test(bench: Bench) -> None:
        for name in ("large", "large-too", "large"):
            await succeed(bench, model=model(models, name))
            await until(partial(is_warm_alone, bench, name), f"{name} alone is warm")

    run(test, models, warm_bytes=48 << 20)


def test_a_model_that_was_used_lately_stays_where_two_have_no_room(models: Path) -> None:
    async def test(bench: Bench) -> None:
        large = model(models, "large")
        await succeed(bench, model=large)
        await until(partial(is_warm_alone, bench, "large"), "the model is warm")
        await succeed(bench, model=model(models, "large-too"))
        await succeed(bench, model=large)
        assert (starts(bench, "hit"), starts(bench, "miss")) == (1, 2)
        assert is_warm_alone(bench, "large")

    run(test, models, warm_bytes=48 << 20)


def test_a_runner_that_waits_with_a_model_goes_with_it(models: Path) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench, model=model(models, "tiny"))
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        await until(lambda: waits_with_model(bench), "one waits with the model")
        (waiting,) = waits_with_model(bench)
        assert await bench.runners.make_room(1 << 40, None)
        assert waiting not in bench.children()

    run(test, models, standby=True)


def test_a_runner_that_is_started_while_a_model_gets_warm_waits_with_it(models: Path) -> None:
    async def test(bench: Bench) -> None:
        (plain_pid,) = bench.template_pids()
        await succeed(bench, model=model(models, "tiny"))
        await until(lambda: waits_with_model(bench), "one waits with the model")
        (waiting,) = waits_with_model(bench)
        waiting.kill()
        waiting.wait()
        (place,) = bench.runners._places.values()
        pool = bench.runners._templates
        assert pool is not None
        plain = pool._plain
        assert plain is not None
        os.kill(plain_pid, signal.SIGSTOP)
        likely, place.likely = place.likely, None  # as long as the model is not warm
        bench.runners.prewarm(bench.slot.device)
        await until(lambda: plain._forking, "one is being forked without the model")
        place.likely = likely
        pool.on_ready()
        os.kill(plain_pid, signal.SIGCONT)
        await until(lambda: waits_with_model(bench), "one waits with the model again")

    run(test, models, standby=True)


def test_a_runner_that_is_forked_while_its_model_goes_does_not_wait_with_it(
    models: Path,
) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench, model=model(models, "tiny"))
        await until(lambda: waits_with_model(bench), "one waits with the model")
        (waiting,) = waits_with_model(bench)
        waiting.kill()
        (held,) = (each for each in bench.runners.templates if each.spec is not None)
        assert held.pid is not None
        os.kill(held.pid, signal.SIGSTOP)
        waiting.wait()
        forking = template_of(bench, "tiny")
        bench.runners.prewarm(bench.slot.device)
        await until(lambda: forking._forking, "the next one is being forked")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.runners.make_room, 1 << 40, None)
            await until(lambda: not warm(bench), "the model goes")
            os.kill(held.pid, signal.SIGCONT)
        (place,) = bench.runners._places.values()
        async with place.starting:
            assert waits_with_model(bench) == []

    run(test, models, standby=True)


def test_a_model_that_takes_more_than_it_said_goes(models: Path) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench, model=dataclasses.replace(model(models, "large"), parts={}))
        await until(lambda: failures(bench, FailureReason.FAILED) == 1, "it is counted")
        assert warm(bench) == set()

    run(test, models, warm_bytes=HELD_BYTES // 2)


def test_a_model_is_made_warm_only_in_what_no_running_step_was_promised(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "free_bytes", lambda: 100 << 20)

    async def test(bench: Bench) -> None:
        large = model(models, "large")
        busy = bench.submit(f"waits_for {tmp_path / 'go'}", model=large, vram_bytes=90 << 20)
        later = bench.submit("quick", model=large)
        await bench.running(busy)
        (place,) = bench.runners._places.values()
        await until(lambda: place.due, "the next step is known")
        assert [each.spec for each in bench.runners.templates] == [None]
        (tmp_path / "go").touch()
        await bench.ended(later)
        await until(lambda: warm(bench) == {"large"}, "there is room once the step has ended")

    run(test, models)


def test_a_model_that_no_step_uses_goes(models: Path) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench, model=model(models, "tiny"))
        await until(lambda: bench.template_states() == [TemplateState.READY], "it has gone")

    run(test, models, warm_s=0.1)


def test_a_step_that_needs_the_memory_gets_it(models: Path) -> None:
    probe = HostProbe(total_bytes=100 << 20)

    async def test(bench: Bench) -> None:
        probe.taken_bytes = lambda: sum(each.size_bytes for each in bench.runners.templates)
        await succeed(bench, model=model(models, "large"))
        await until(lambda: warm(bench) == {"large"}, "the model is warm")
        await succeed(bench, model=model(models, "tiny"), vram_bytes=60 << 20)
        assert "large" in warm(bench)  # there was room for both
        await succeed(bench, model=model(models, "tiny"), vram_bytes=90 << 20)
        assert "large" not in warm(bench)

    run(test, models, probe=probe)


def test_what_a_model_holds_already_counts_for_its_own_step(models: Path) -> None:
    probe = HostProbe(total_bytes=100 << 20)

    async def test(bench: Bench) -> None:
        probe.taken_bytes = lambda: sum(each.size_bytes for each in bench.runners.templates)
        large = model(models, "large")
        await succeed(bench, model=large)
        await until(lambda: warm(bench) == {"large"}, "the model is warm")
        await succeed(bench, model=large, vram_bytes=90 << 20)
        assert warm(bench) == {"large"} and starts(bench, "hit") == 1

    run(test, models, probe=probe)


# A template that misbehaves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hangs", FailureReason.HUNG),
        ("has-no-memory", FailureReason.FAILED),
        ("dies", FailureReason.DIED),
        ("has-a-thread", FailureReason.UNFIT),
        ("has-a-device", FailureReason.UNFIT),
    ],
)
def test_a_model_that_cannot_be_made_warm_costs_no_step(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: FailureReason
) -> None:
    monkeypatch.setattr(model_template, "LOAD_WITHIN_S", 0.3)

    async def test(bench: Bench) -> None:
        wanted = model(models, name)
        await succeed(bench, model=wanted)
        await until(lambda: failures(bench, reason) >= 1, "the failure is counted")
        await succeed(bench, model=wanted)
        assert name not in warm(bench)

    run(test, models)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cannot-fork", FailureReason.FAILED),
        ("dies-after-fork", FailureReason.DIED),
        ("answers-half", FailureReason.PROTOCOL),
        ("hangs-at-fork", FailureReason.HUNG),
    ],
)
def test_a_warm_model_that_cannot_be_forked_costs_no_step(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: FailureReason
) -> None:
    if name == "hangs-at-fork":
        monkeypatch.setattr(template, "FORK_WITHIN_S", 0.3)

    async def test(bench: Bench) -> None:
        wanted = model(models, name)
        await succeed(bench, model=wanted)
        await until(lambda: warm(bench) == {name}, "it is warm")
        await succeed(bench, model=wanted)
        await until(lambda: failures(bench, reason) >= 1, "the failure is counted")
        assert starts(bench, "hit") == 0

    run(test, models)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, FailureReason.DIED), (signal.SIGSTOP, FailureReason.HUNG)],
)
def test_a_warm_model_that_is_killed_or_stopped_is_made_again(
    models: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, reason: FailureReason
) -> None:
    async def test(bench: Bench) -> None:
        tiny = model(models, "tiny")
        await succeed(bench, model=tiny)
        await until(lambda: warm(bench) == {"tiny"}, "it is warm")
        pid = template_of(bench, "tiny").pid
        os.kill(pid, number)
        with monkeypatch.context() as impatient:
            impatient.setattr(template, "FORK_WITHIN_S", 0.3)
            await succeed(bench, model=tiny)
        await until(lambda: failures(bench, reason) >= 1, "it is counted")
        await until(lambda: not psutil.pid_exists(pid), "it is gone")

        def is_warm_again() -> bool:
            bench.runners.prewarm(bench.slot.device)  # as each step does at its end
            return warm(bench) == {"tiny"}

        await until(is_warm_again, "it is warm again")
        await succeed(bench, model=tiny)
        assert starts(bench, "hit") == 1

    run(test, models)


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    """A process that leads a group, and neither belongs to the worker nor is its child."""
    sleeper = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(3600)"
    starter = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", starter, sleeper], stdout=subprocess.PIPE, text=True
    ) as between:
        assert between.stdout is not None
        process = psutil.Process(int(between.stdout.readline()))
    yield process
    with suppress(psutil.NoSuchProcess):
        process.kill()


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    """A child of this process that leads a group and was there before any template."""
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    with subprocess.Popen(command, start_new_session=True) as process:
        yield psutil.Process(process.pid)
        process.kill()


@pytest.mark.parametrize("whose", ["stranger", "child"])
def test_a_template_that_calls_another_process_its_fork_does_not_get_it_killed(
    models: Path, request: pytest.FixtureRequest, whose: str
) -> None:
    victim: psutil.Process = request.getfixturevalue(whose)

    async def test(bench: Bench) -> None:
        liar = model(models, "names-a-stranger")
        (models / "names-a-stranger" / STRANGER).write_text(str(victim.pid))
        await succeed(bench, model=liar)
        await until(lambda: warm(bench) == {"names-a-stranger"}, "it is warm")
        await succeed(bench, model=liar)
        await until(lambda: failures(bench, FailureReason.PROTOCOL) == 1, "it is counted")
        assert starts(bench, "hit") == 0

    run(test, models)
    assert is_alive(victim)


def test_an_answer_that_comes_twice_is_not_taken_for_another_fork_s(models: Path) -> None:
    async def test(bench: Bench) -> None:
        twice = model(models, "answers-twice")
        await succeed(bench, model=twice)
        await until(lambda: warm(bench) == {"answers-twice"}, "it is warm")
        neighbour = bench.submit("polite", model=twice)
        await bench.running(neighbour)
        assert starts(bench, "hit") == 1
        await succeed(bench, model=twice)
        await until(lambda: failures(bench, FailureReason.PROTOCOL) == 1, "it is counted")
        bench.store.request_cancel(neighbour)
        assert (await bench.ended(neighbour)).reason is Reason.CANCELLED

    run(test, models, slots=2)


def test_a_host_without_threads_costs_no_step(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test(bench: Bench) -> None:
        tiny = model(models, "tiny")
        await succeed(bench, model=tiny)
        await until(lambda: failures(bench, FailureReason.FAILED) >= 1, "it is counted")
        await succeed(bench, model=tiny)
        assert warm(bench) == set()

    monkeypatch.setattr(threading.Thread, "start", start)

    run(test, models)


def test_a_model_whose_files_changed_is_not_used_warm(models: Path) -> None:
    async def test(bench: Bench) -> None:
        tiny = model(models, "tiny")
        await succeed(bench, model=tiny)
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        (models / "tiny" / "model.safetensors").write_bytes(b"others")
        await succeed(bench, model=tiny)
        assert starts(bench, "hit") == 0
        assert failures(bench, FailureReason.UNAVAILABLE) == 1

    run(test, models)


def test_a_folder_that_does_not_answer_costs_no_step(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_template, "FORK_WITHIN_S", 0.1)
    answers = threading.Event()

    def stamp(folder: Path) -> Stamp:
        answers.wait(DEADLINE_S)  # as a network file system that is away
        return stamp_of(folder)

    async def test(bench: Bench) -> None:
        tiny = model(models, "tiny")
        await succeed(bench, model=tiny)
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        with monkeypatch.context() as away:
            away.setattr(model_template, "stamp_of", stamp)
            await succeed(bench, model=tiny)
        answers.set()
        assert starts(bench, "hit") == 0
        assert failures(bench, FailureReason.UNAVAILABLE) >= 1

    run(test, models)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, FailureReason.DIED), (signal.SIGSTOP, FailureReason.HUNG)],
)
def test_a_template_that_is_killed_or_stopped_is_made_again(
    models: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, reason: FailureReason
) -> None:
    monkeypatch.setattr(template, "FORK_WITHIN_S", 0.3)

    async def test(bench: Bench) -> None:
        (pid,) = bench.template_pids()
        os.kill(pid, number)
        await succeed(bench)
        await until(lambda: failures(bench, reason) == 1, "the failure is counted")
        await until(
            lambda: (
                bench.template_pids() - {pid} and bench.template_states() == [TemplateState.READY]
            ),
            "another template",
        )
        assert not psutil.pid_exists(pid)
        await succeed(bench)

    run(test, models)


@pytest.mark.parametrize("imports", ["tests.support.template_with_thread", "no.such.module"])
def test_a_template_that_never_gets_ready_costs_no_step(models: Path, imports: str) -> None:
    async def test(bench: Bench) -> None:
        await succeed(bench)
        assert failures(bench, FailureReason.UNFIT) + failures(bench, FailureReason.DIED) >= 1

    serve(test, runner_start="template", models_folder=models, imports=imports, begun=False)


def test_a_host_that_cannot_start_a_template_costs_no_step(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(harness, "SpawnedProcess", start)  # of templates; steps have their own

    async def test(bench: Bench) -> None:
        await succeed(bench)
        assert failures(bench, FailureReason.FAILED) >= 1

    serve(test, runner_start="template", models_folder=models, begun=False)


def test_a_template_that_starts_too_slowly_is_given_up(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "START_WITHIN_S", 0.0)

    async def test(bench: Bench) -> None:
        await succeed(bench)
        assert failures(bench, FailureReason.HUNG) >= 1

    serve(test, runner_start="template", models_folder=models, begun=False)


def test_a_step_that_is_cancelled_while_it_waits_for_a_fork_ends_at_once(models: Path) -> None:
    async def test(bench: Bench) -> None:
        (pid,) = bench.template_pids()
        os.kill(pid, signal.SIGSTOP)
        job = bench.submit("quick")
        await bench.reaches(job, StepState.LEASED)
        bench.store.request_cancel(job)
        step = await bench.ended(job)
        assert step.reason is Reason.CANCELLED
        await bench.in_state("free")
        assert "gpu.not_reclaimed" not in bench.codes(job)

    run(test, models)


def test_a_supervisor_that_drains_leaves_no_template(models: Path) -> None:
    left: list[list[psutil.Process]] = []

    async def test(bench: Bench) -> None:
        await succeed(bench, model=model(models, "tiny"))
        await until(lambda: warm(bench) == {"tiny"}, "the model is warm")
        await until(bench.processes, "a runner waits")
        left.append(marked(bench.supervisor.worker_id))

    run(test, models, standby=True)  # at whose end no marked process may be left
    assert len(left[0]) >= 3  # two templates and a runner that waits


def test_a_folder_of_models_that_does_not_answer_stops_nothing_else(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "ANSWER_WITHIN_S", 0.1)
    answers, asked = threading.Event(), threading.Event()
    answers.set()
    answered: list[bool] = []

    def places() -> None:
        if not answers.is_set():
            asked.set()
            answered.append(answers.wait(DEADLINE_S))  # as a network file system that is away

    async def test(bench: Bench) -> None:
        answers.clear()
        step = bench.submit("quick")
        await until(asked.is_set, "it is asked")
        await bench.ended(step)
        answers.set()

    run(test, models, places=places)
    assert answered and all(answered), "the step waited for the disk"


# Links among the models ---------------------------------------------------------------------------


def test_a_link_that_appears_among_the_models_is_read_by_new_templates_and_runners(
    models: Path,
) -> None:
    """What a process may read is fixed when it starts, so those of before must go."""
    places = ["the folder"]

    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 1, "a runner that waits")
        before = {*bench.template_pids(), bench.processes()[0].pid}
        await succeed(bench)  # one that has no reason to go
        assert bench.template_pids() <= before
        await until(lambda: len(bench.processes()) == 1, "the next runner that waits")
        before |= {bench.processes()[0].pid}
        places.append("a link")
        await succeed(bench)

        def is_new() -> bool:
            now = {*bench.template_pids(), *(process.pid for process in bench.processes())}
            return len(now) == 2 and not now & before

        await until(is_new, "another template, and another runner that waits")
        await succeed(bench)
        assert failures(bench, FailureReason.DIED) == 0  # it was ended, and did not fail

    run(test, models, standby=True, places=lambda: tuple(places))
