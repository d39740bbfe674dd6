"""The worker as a process, `python -m supervisor`, with the real parts and the real runner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import psutil
import pytest
import redis
from tests.support import quick_timings
from tests.support.announcements import wait_until_announced
from tests.support.database import execute
from tests.support.infrastructure import Infrastructure
from tests.support.tiny_model import build_tiny_model
from tests.support.worker_process import (
    DEADLINE_S,
    Worker,
    command_environment,
    free_port,
    until,
    workers,
)

from shared.db.create_job import create_job
from shared.db.engine import Database
from shared.db.insert_job import NewJob, NewStep
from shared.db.models import Model, upsert_model
from shared.dispatch.event_channel import CHANNEL
from shared.linux.child import MARKER
from shared.linux.file_lock import FileLock
from shared.models.verify import read_model
from shared.presets import presets
from supervisor.processes.worker_mark import worker_lock, worker_mark

pytestmark = pytest.mark.timeout(300)

Start = Callable[..., Worker]

SETTINGS = {
    "DF_DEVICE": "cpu",
    "DF_DRAIN_S": "0",
}
# A lease that a test can wait for: the fence is at 7 s, the next owner comes after 12 s.
TIMES = quick_timings.in_environment(
    lease_s=12.0,
    lease_renew_s=1.0,
    lease_margin_s=1.0,
    term_grace_s=1.0,
    kill_deadline_s=3.0,
    retry_base_s=0.1,
)


@pytest.fixture
def settings(stack_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return stack_environment | SETTINGS | TIMES | {"DF_MODELS_DIR": str(tmp_path / "models")}


@pytest.fixture
def start(settings: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    with workers(tmp_path / "worker", settings, module="tests.support.timed_worker") as starter:
        yield starter


# Its runners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner_start", ["spawn", "template"])
def test_a_killed_worker_takes_its_runners_and_templates_along(
    start: Start, runner_start: str
) -> None:
    worker = start(DF_RUNNER_START=runner_start)
    runner = worker.wait_runner()
    worker.stop(signal.SIGKILL)
    until(lambda: not runner.is_running() or runner.status() == "zombie", "its runner is gone")
    until(lambda: not worker.marked(), "nothing of it is left")


@pytest.mark.parametrize("runner_start", ["spawn", "template"])
def test_a_runner_and_a_template_inherit_nothing_of_their_worker(
    start: Start, settings: dict[str, str], runner_start: str
) -> None:
    tokens = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SSL_CERT_DIR")
    worker = start(**dict.fromkeys(tokens, "a-token"), DF_RUNNER_START=runner_start)
    runner = worker.wait_runner()
    until(lambda: _maps(runner).count("libtorch") or _ended(runner), "torch is imported")
    assert "NoNewPrivs:\t1" in Path(f"/proc/{runner.pid}/status").read_text().splitlines()
    environment = Path(f"/proc/{runner.pid}/environ").read_text()
    assert "DF_" not in environment
    assert {
        entry.partition("=")[0] for entry in environment.split("\0") if "a-token" in entry
    } == set()
    for process in psutil.Process(worker.process.pid).children():  # a runner could read there
        assert "a-token" not in Path(f"/proc/{process.pid}/environ").read_text()
    for secret in (settings["DF_S3_SECRET_KEY"], settings["DF_DATABASE_URL"]):
        assert secret not in environment
    for package in ("psycopg", "sqlalchemy", "celery", "hiredis"):
        assert package not in _maps(runner)
    open_files = [os.readlink(fd) for fd in Path(f"/proc/{runner.pid}/fd").iterdir()]
    assert len([name for name in open_files if name.startswith("socket:")]) <= 1
    assert not [name for name in open_files if name.endswith(".lock")]
    streams = [os.readlink(f"/proc/{runner.pid}/fd/{number}") for number in range(3)]
    assert streams[0] == os.devnull
    assert {name.partition(":")[0] for name in streams[1:]} == {"pipe"}
    theirs = {os.readlink(fd) for fd in Path(f"/proc/{worker.process.pid}/fd").iterdir()}
    assert streams[1] == streams[2] in theirs  # only the worker reads there
    assert streams[1] != os.readlink(f"/proc/{worker.process.pid}/fd/2")


def _maps(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


def _ended(process: psutil.Process) -> bool:
    assert process.is_running(), "the runner ended"
    return False


def test_a_worker_hides_from_its_runners_and_adopts_what_they_leave(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings = settings | {"TMPDIR": str(tmp_path)}
    with workers(tmp_path / "worker", settings, module="tests.support.prying_worker") as start:
        worker = start()
        worker.until((tmp_path / "daemon").exists, "a daemon")
        assert (tmp_path / "read").read_text() == "refused"
        daemon = psutil.Process(int((tmp_path / "daemon").read_text()))
        worker.until(lambda: daemon.ppid() == worker.process.pid, "it is the worker's child")
        assert worker.stop() == 0
        assert not daemon.is_running()


def test_orphans_of_a_dead_worker_are_killed_at_the_next_start_and_others_are_not(
    start: Start, tmp_path: Path
) -> None:
    lock_dir = tmp_path / "worker" / "locks"
    dead, alive = uuid4(), uuid4()
    lock = FileLock(worker_lock(lock_dir, alive))
    FileLock(worker_lock(lock_dir, dead)).release()
    orphan, neighbour, stranger = (
        _sleeper(mark)
        for mark in (
            worker_mark(lock_dir, dead),
            worker_mark(lock_dir, alive),
            worker_mark(tmp_path / "elsewhere", dead),
        )
    )
    try:
        start(DF_STANDBY="0").wait_ready()
        assert orphan.wait(DEADLINE_S) == -signal.SIGKILL
        assert (neighbour.poll(), stranger.poll()) == (None, None)
    finally:
        lock.release()
        for process in (orphan, neighbour, stranger):
            process.kill()
            process.wait()


def test_a_worker_keeps_the_file_of_its_lock_young(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """What clears /tmp of old files would take its lock from under it."""
    settings = settings | {"TMPDIR": str(tmp_path), "DF_STANDBY": "0"}
    with workers(tmp_path / "worker", settings, module="tests.support.gated_worker") as start:
        worker = start()
        worker.wait_ready()
        (lock,) = (tmp_path / "worker" / "locks").glob("worker-*.lock")
        os.utime(lock, (0, 0))
        worker.until(lambda: lock.stat().st_mtime > 0, "its file is touched")


def _sleeper(mark: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "600"], env={MARKER: f"{mark}:1"})


# Jobs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models, with the tiny one in it."""
    root = tmp_path_factory.mktemp("models")
    build_tiny_model(root / "sd" / "tiny@1")
    return root


def with_database(url: str, work: Callable[[Any], Any]) -> Any:
    async def main() -> Any:
        database = Database(url)
        try:
            return await database.transaction(work)
        finally:
            await database.close()

    return anyio.run(main)


def submit(url: str, tiny: Path, *, count: int, steps: int) -> UUID:
    """A job that runs for as long as it is large."""
    descriptor = read_model(tiny / "sd" / "tiny@1")
    model: Model = with_database(url, lambda connection: upsert_model(connection, descriptor))
    params = {"prompt": "noise", "width": 64, "height": 64, "steps": steps, "guidance": 3.0}
    step = NewStep(
        id=uuid4(),
        name="generate",
        type="generate",
        params=params | {"seed": 1, "count": count},
        queue="default",
        device="cpu",
        preset=presets()["cpu"].budget_for("sd").pinned,
        vram_bytes=1 << 20,
        timeout_s=120.0,
        model_id=model.id,
        checkpoint_sha256=model.checkpoint_sha256,
    )
    job = NewJob(
        id=uuid4(),
        type="generate",
        user="default",
        request={},
        count=count,
        correlation_id="test",
        steps=[step],
    )
    with_database(url, lambda connection: create_job(connection, job))
    return job.id


def step_of(url: str, job: UUID) -> tuple[Any, ...]:
    (row,) = execute(url, "SELECT state, attempt, losses FROM steps WHERE job_id = %s", job)
    return row


@pytest.mark.parametrize(
    "runner_start", [pytest.param("spawn", marks=pytest.mark.slow), "template"]
)
def test_a_job_of_a_killed_worker_is_finished_by_the_next_one(
    start: Start, database_url: str, tiny: Path, runner_start: str
) -> None:
    job = submit(database_url, tiny, count=3, steps=60)
    first = start(DF_MODELS_DIR=str(tiny), DF_RUNNER_START=runner_start)
    artifacts = "SELECT item_index, s3_key FROM artifacts WHERE job_id = %s ORDER BY item_index"
    first.until(lambda: execute(database_url, artifacts, job), "a first image")
    runners = first.marked()
    assert runners
    first.stop(signal.SIGKILL)
    until(lambda: not first.marked(), "its runner, which works since GO, died with it")
    kept = execute(database_url, artifacts, job)

    second = start(DF_MODELS_DIR=str(tiny), DF_RUNNER_START=runner_start)
    second.until(lambda: step_of(database_url, job)[0] == "succeeded", "the end")
    assert step_of(database_url, job) == ("succeeded", 2, 1)
    stored = execute(database_url, artifacts, job)
    assert [index for index, _ in stored] == [0, 1, 2]
    assert stored[: len(kept)] == kept  # nothing that was done is done again


def test_a_worker_announces_the_events_that_it_commits(
    start: Start, database_url: str, tiny: Path, stack: Infrastructure
) -> None:
    with (
        redis.Redis.from_url(stack.environment["DF_REDIS_URL"]) as broker,
        broker.pubsub() as channel,
    ):
        channel.subscribe(CHANNEL)
        job = submit(database_url, tiny, count=1, steps=1)
        start(DF_MODELS_DIR=str(tiny))
        wait_until_announced(channel, job, timeout_s=60)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_gives_the_step_back_exits_0_and_leaves_nothing(
    start: Start, database_url: str, tiny: Path, number: signal.Signals
) -> None:
    job = submit(database_url, tiny, count=50, steps=100)
    worker = start(DF_MODELS_DIR=str(tiny))
    worker.until(lambda: step_of(database_url, job)[0] == "running", "it runs")
    assert worker.stop(number) == 0, worker.log.read_text()
    assert [line for line in worker.log.read_text().splitlines() if line[:1] != "{"] == []
    assert step_of(database_url, job) == ("queued", 0, 0)
    assert worker.marked() == []
    assert list(worker.lock_dir.iterdir()) == []
    assert execute(database_url, "SELECT id FROM workers") == []


# What keeps it from starting ----------------------------------------------------------------------


def failed_start(settings: dict[str, str], folder: Path, *how: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, *(how or ("-m", "supervisor"))],
        env=command_environment(settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DF_DRAIN_S", "-1", "DF_DRAIN_S"),
        ("DF_LEASE_S", "30", "DF_LEASE_S is no setting any more"),
        pytest.param("DF_DEVICE", "tpu", "DF_DEVICE", marks=pytest.mark.slow),
        pytest.param(
            "DF_DATABASE_URL",
            "mysql://x",
            "DF_DATABASE_URL: must be postgresql://",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    settings: dict[str, str], tmp_path: Path, name: str, value: str, words: str
) -> None:
    code, lines = failed_start(settings | {name: value}, tmp_path)
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]


def test_an_unreachable_database_is_one_line_that_names_its_setting(
    settings: dict[str, str], tmp_path: Path
) -> None:
    nowhere = f"postgresql://user:secret@127.0.0.1:{free_port()}/none"
    changes = {"DF_DATABASE_URL": nowhere, "DF_STARTUP_TIMEOUT_S": "0.5", "DF_WORKER_PORT": "0"}
    code, lines = failed_start(settings | changes, tmp_path)
    assert code == 1
    assert len(lines) == 1
    assert "DF_DATABASE_URL" in lines[0]
    assert "secret" not in lines[0]


def test_a_kernel_that_hides_children_is_one_line(settings: dict[str, str], tmp_path: Path) -> None:
    script = (
        "from supervisor import worker; worker.lists_children = lambda: False; "
        "raise SystemExit(worker.main())"
    )
    code, lines = failed_start(settings | {"DF_WORKER_PORT": "0"}, tmp_path, "-c", script)
    assert (code, len(lines)) == (1, 1)
    assert "CONFIG_PROC_CHILDREN" in lines[0]


def test_a_port_in_use_names_the_setting_that_changes_it(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, lines = failed_start(settings | {"DF_WORKER_PORT": port}, tmp_path)
    assert code == 1
    assert len(lines) == 1
    assert port in lines[0]
    assert "DF_WORKER_PORT" in lines[0]
