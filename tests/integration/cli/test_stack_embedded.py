"""The embedded infrastructure with its real processes: start, crash, Ctrl-C, orphans."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
from minio import Minio
from tests.support.infrastructure import Infrastructure, infrastructure

from cli.errors import StackError
from cli.processes import orphans, os_process, restart_policy, signals
from cli.processes.child import Child
from cli.processes.orphans import MARKER
from cli.state_dir import StateDir
from shared.linux import proc

_OWNER = """
import pathlib, sys, time
from cli.processes import signals
from cli.processes.child import Child
from tests.support.infrastructure import infrastructure
try:
    with signals.handle(), infrastructure(pathlib.Path(sys.argv[1]), {}, print) as stack:
        print("ready", *stack.pids.values(), flush=True)
        while True:
            stack.manager.tick()
            time.sleep(0.05)
except signals.Interrupt as interrupted:
    sys.exit(interrupted.exit_code)
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infrastructure]:
    with infrastructure(tmp_path_factory.mktemp("home"), {}) as running:
        yield running


def _until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def _start_owner(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(home)], stdout=subprocess.PIPE, text=True
    )


def _wait_ready(owner: subprocess.Popen[str]) -> set[psutil.Process]:
    """Everything that the owner started, its descendants included."""
    assert owner.stdout is not None
    for line in owner.stdout:
        if line.startswith("ready"):
            process = psutil.Process(owner.pid)
            return os_process.family(process) - {process}
    raise AssertionError("the owner ended before it was ready")


def _without_broker(stack: Infrastructure) -> dict[str, str]:
    """Settings for a second stack that starts a broker only: quick."""
    return {name: value for name, value in stack.environment.items() if name != "DF_REDIS_URL"}


def _query(environment: dict[str, str]) -> str:
    with psycopg.connect(environment["DF_DATABASE_URL"]) as link:
        row = link.execute("SELECT current_database()").fetchone()
    assert row is not None
    return str(row[0])


def _minio(environment: dict[str, str], secret: str | None = None) -> Minio:
    return Minio(
        environment["DF_S3_ENDPOINT"].removeprefix("http://"),
        access_key=environment["DF_S3_ACCESS_KEY"],
        secret_key=secret or environment["DF_S3_SECRET_KEY"],
        secure=False,
    )


def test_all_settings_are_offered_and_the_parts_serve(stack: Infrastructure) -> None:
    assert set(stack.environment) == {
        "DF_DATABASE_URL", "DF_REDIS_URL", "DF_S3_ENDPOINT", "DF_S3_ACCESS_KEY",
        "DF_S3_SECRET_KEY", "DF_MODELS_DIR",
    }  # fmt: skip
    assert _query(stack.environment) == "dreamforge"
    client = _minio(stack.environment)
    client.make_bucket("first")
    assert client.bucket_exists("first")


def test_no_secret_is_in_an_address_a_command_line_or_a_log(stack: Infrastructure) -> None:
    secrets = [str(value) for value in stack.home.read("credentials.json").values()]
    assert len(secrets) == 4
    seen = repr(stack.addresses)
    for pid in stack.pids.values():
        seen += Path(f"/proc/{pid}/cmdline").read_text()
    for log in (stack.home.path / "logs").iterdir():
        seen += log.read_text()
    assert not [secret for secret in secrets if secret in seen]


def test_wrong_credentials_are_refused_by_every_part(stack: Infrastructure) -> None:
    password = stack.home.read("credentials.json")["postgres"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.environment["DF_DATABASE_URL"].replace(password, "guess"))
    with pytest.raises(Exception, match="signature"):
        _minio(stack.environment, secret="guess" * 8).list_buckets()


@pytest.mark.parametrize("name", ["postgres", "broker", "store"])
def test_a_killed_part_comes_back_on_its_port_with_its_data(
    stack: Infrastructure, name: str
) -> None:
    before = stack.pids[name]
    addresses = stack.addresses
    stack.kill(name)
    stack.restart(name)
    assert stack.pids[name] != before
    assert stack.addresses == addresses
    assert _query(stack.environment) == "dreamforge"


def test_postgres_never_runs_as_root_and_its_folder_is_closed(stack: Infrastructure) -> None:
    status = Path(f"/proc/{stack.pids['postgres']}/status").read_text()
    uid = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    assert uid is not None
    assert int(uid[1]) != 0
    folder = (stack.home.path / "postgres").stat()
    assert folder.st_uid == int(uid[1])
    assert folder.st_mode & 0o777 == 0o700


def test_a_second_stack_on_the_folder_is_refused(stack: Infrastructure) -> None:
    second = subprocess.run(
        [sys.executable, "-c", _OWNER, str(stack.home.path)], capture_output=True, text=True
    )
    assert second.returncode == 1
    assert f"(pid {os.getpid()})" in second.stderr.strip().splitlines()[-1]
    assert _query(stack.environment) == "dreamforge"


def test_an_unreachable_external_part_is_one_line(tmp_path: Path) -> None:
    named = {"DF_REDIS_URL": "redis://:hidden@127.0.0.1:1/0"}
    with (
        pytest.raises(StackError, match=r"127\.0\.0\.1:1 \(DF_REDIS_URL\)") as caught,
        infrastructure(tmp_path, named),
    ):
        pass
    assert "hidden" not in str(caught.value)


def test_a_part_that_is_there_is_used_instead_of_ours(
    stack: Infrastructure, tmp_path: Path
) -> None:
    named = _without_broker(stack)
    with infrastructure(tmp_path, named) as other:
        assert set(other.pids) == {"broker"}
        assert other.environment["DF_DATABASE_URL"] == named["DF_DATABASE_URL"]
        assert other.environment["DF_REDIS_URL"] != stack.environment["DF_REDIS_URL"]
        assert any(row.note == "from DF_S3_ENDPOINT" for row in other.addresses)


def test_kill_9_of_the_owner_leaves_nothing_and_the_data_survives(tmp_path: Path) -> None:
    with _start_owner(tmp_path) as owner:
        children = _wait_ready(owner)
        assert len(children) > 3  # PostgreSQL has processes of its own
        owner.kill()
    assert os_process.wait_gone(children, 30.0) == set()
    with infrastructure(tmp_path, {}) as again:
        assert _query(again.environment) == "dreamforge"


def test_every_part_keeps_the_marker_by_which_it_would_be_found(stack: Infrastructure) -> None:
    markers = {name: proc.environment_value(pid, MARKER) for name, pid in stack.pids.items()}
    assert markers == dict.fromkeys(stack.pids, str(stack.home.path))


def test_orphans_are_found_by_record_or_by_marker_and_ended(
    stack: Infrastructure, tmp_path: Path
) -> None:
    home = StateDir(tmp_path)
    marked = {MARKER: str(home.path)}
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with (
        subprocess.Popen(sleep, env=marked) as ours,
        subprocess.Popen(sleep, env=marked) as unnoted,
        subprocess.Popen(sleep, env={}) as stranger,
    ):
        log = tmp_path / "log"
        children = {"broker": Child(ours, log), "store": Child(stranger, log)}
        orphans.record_children(home, children)
        notes: list[str] = []
        with infrastructure(tmp_path, _without_broker(stack), notes.append):
            assert ours.wait(0) == unnoted.wait(0) == -signal.SIGKILL
            assert stranger.poll() is None  # its number is in our record, its marker is not ours
        stranger.kill()
    assert notes == ["ended 2 processes that an earlier start had left behind"]


def test_a_record_of_another_boot_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os_process, "with_environ", lambda name, value: set())
    home = StateDir(tmp_path)
    marked = {MARKER: str(home.path)}
    with subprocess.Popen(["/bin/sleep", "60"], env=marked) as sleeper:
        _until(lambda: MARKER in Path(f"/proc/{sleeper.pid}/environ").read_text(), "exec")
        orphans.record_children(home, {"broker": Child(sleeper, tmp_path / "log")})
        assert orphans.find(home) == {psutil.Process(sleeper.pid)}
        home.write("children.json", home.read("children.json") | {"boot_id": "another"})
        assert orphans.find(home) == set()
        sleeper.kill()


def test_a_descendant_that_left_its_session_is_gone_after_the_end(
    stack: Infrastructure, tmp_path: Path
) -> None:
    with infrastructure(tmp_path, _without_broker(stack)):
        marked = {MARKER: str(tmp_path)}
        escaped = subprocess.Popen(["/bin/sleep", "60"], env=marked, start_new_session=True)
    assert escaped.wait(0) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        ("postgres/data.new/global", signal.SIGINT),
        ("broker/valkey.conf", signal.SIGTERM),
        ("ready", signal.SIGINT),
        ("ready", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_moment_leaves_no_process(
    tmp_path: Path, moment: str, sent: signal.Signals
) -> None:
    with _start_owner(tmp_path) as owner:
        if moment == "ready":
            _wait_ready(owner)
        else:
            _until((tmp_path / moment).exists, moment)
        started = os_process.family(psutil.Process(owner.pid))
        owner.send_signal(sent)
        assert owner.wait(30) == 128 + sent
    assert os_process.wait_gone(started, 0.0) == set()
    assert os_process.with_environ(MARKER, str(tmp_path)) == set()


def test_an_interrupted_first_start_does_not_spoil_the_next(tmp_path: Path) -> None:
    with _start_owner(tmp_path) as owner:
        _until((tmp_path / "postgres/data.new/global").exists, "initdb")
        owner.send_signal(signal.SIGINT)
        owner.wait(30)
    with infrastructure(tmp_path, {}) as again:
        assert _query(again.environment) == "dreamforge"


def test_a_part_that_dies_is_restarted_and_five_deaths_stop_everything(
    stack: Infrastructure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart_policy, "BASE_S", 0.01)
    notes: list[str] = []
    pids: set[int] = set()
    with (
        pytest.raises(StackError, match="Broker died 5 times in 60 s"),
        infrastructure(tmp_path, _without_broker(stack), notes.append) as other,
    ):
        for death in range(5):
            pids.add(other.pids["broker"])
            other.kill("broker")
            _until(partial(_is_back, other, notes, death + 1), "restart")
    assert len(pids) == 5
    assert [line.splitlines()[0] for line in notes if "died" in line] == [
        f"Broker died (killed by SIGKILL), starting it again in {delay:g} s"
        for delay in (0.01, 0.02, 0.04, 0.08)
    ]
    assert all(os_process.find_living(pid) is None for pid in pids)


def _is_back(stack: Infrastructure, notes: list[str], times: int) -> bool:
    stack.manager.tick()
    return len([line for line in notes if "Broker is back" in line]) >= times


def test_a_part_that_cannot_start_says_why_with_its_last_lines(tmp_path: Path) -> None:
    with infrastructure(tmp_path, {}):
        pass
    (tmp_path / "postgres/data/PG_VERSION").write_text("9\n")
    with (
        pytest.raises(StackError, match=r"PostgreSQL ended while starting[^$]*incompatible"),
        infrastructure(tmp_path, {}),
    ):
        pass


def test_children_are_spawned_from_the_main_thread_only(stack: Infrastructure) -> None:
    caught: list[BaseException] = []

    def restart() -> None:
        try:
            stack.restart("broker")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=restart)
    thread.start()
    thread.join()
    assert len(caught) == 1
    stack.restart("broker")


def test_a_signal_while_held_is_raised_on_the_way_out_and_only_once() -> None:
    went_on = False
    with signals.handle():
        with pytest.raises(signals.Interrupt) as caught, signals.defer():
            signal.raise_signal(signal.SIGTERM)
            went_on = True
        signal.raise_signal(signal.SIGINT)  # counted, not raised
        assert went_on
        assert caught.value.exit_code == 143
        assert signals.count_received() == 2
