"""Runners, and the templates that they are forked from, attack what is around them: all refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.hostile_worker import ATTACKS, MARK
from tests.support.worker_process import Worker, free_port, workers

from shared.linux import landlock
from supervisor.processes.containment import read_kernel

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        bool(read_kernel().lacking()),
        reason=f"Landlock ABI {landlock.abi()}: the kernel lacks some",
    ),
]

REFUSED = {"EPERM", "EACCES"}
# What an ordinary user can do, so that each of these shows that the attack is a real one.
ORDINARY = ATTACKS.keys() - {"trace", "read memory", "write memory", "raw", "own models", "mount"}
ORDINARY -= {"write the host's settings", "dump core", "open files without end"}
FILES = {"read credentials", "list secrets", "read /etc", "write models", "write beside"}
SIGNALS = {"signal", "signal by descriptor", "signal the worker"}


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Things of this user that no runner has to do with."""
    secrets, models = tmp_path / "secrets", tmp_path / "models"
    secrets.mkdir()
    models.mkdir()
    (secrets / "credentials.json").write_text("secret")
    with ExitStack() as stack:
        victim = stack.enter_context(subprocess.Popen(["/bin/sleep", "600"]))
        stack.callback(victim.kill)
        port = free_port()
        name = f"\0dreamforge-{os.getpid()}"
        path = str(secrets / "socket")
        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        for kind, address in (
            (socket.SOCK_STREAM, path),
            (socket.SOCK_STREAM, name),
            (socket.SOCK_DGRAM, f"{name}-datagrams"),
        ):
            server = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            server.bind(address)
            if kind == socket.SOCK_STREAM:
                server.listen()
        yield {
            "pid": victim.pid,
            "credentials": str(secrets / "credentials.json"),
            "models": str(models),
            "port": port,
            "path": path,
            "abstract": name,
            "abstract_datagrams": f"{name}-datagrams",
        }


@pytest.fixture
def settings(stack_environment: dict[str, str], attacked: dict[str, Any]) -> dict[str, str]:
    return stack_environment | {
        "DF_DEVICE": "cpu",
        "DF_MODELS_DIR": attacked["models"],
        "LC_ATTACKED": json.dumps(attacked),
    }


def outcomes(worker: Worker, role: str) -> dict[str, str]:
    """What a process of this role has reported."""

    def reported() -> dict[str, str] | None:
        for line in worker.log.read_text().splitlines():
            message = json.loads(line)["message"] if line.startswith("{") else ""
            _, _, report = message.partition(MARK)
            if report and (said := json.JSONDecoder().raw_decode(report)[0])["role"] == role:
                return dict(said["outcomes"])
        return None

    found: dict[str, str] = worker.until(reported, f"the report of a {role}")
    return found


def done(outcomes: dict[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome not in REFUSED}


def sandbox(worker: Worker) -> dict[str, Any]:
    worker.wait_ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/readyz", timeout=5) as answer:
        return dict(json.loads(answer.read())["sandbox"])


@pytest.mark.parametrize("runner_start", ["spawn", "template"])
def test_a_hostile_runner_fails_at_everything(
    settings: dict[str, str], tmp_path: Path, runner_start: str
) -> None:
    settings |= {"DF_SANDBOX": "require", "DF_RUNNER_START": runner_start}
    with workers(tmp_path / "worker", settings, module="tests.support.hostile_worker") as start:
        worker = start()
        assert done(outcomes(worker, "runner")) == set()
        if runner_start == "template":
            assert done(outcomes(worker, "template")) == {"fork"}
        shown = sandbox(worker)
        assert shown == {"cpu": {"by": f"Landlock ABI {landlock.abi()}, seccomp", "lacks": []}}


def test_without_a_sandbox_the_same_attacks_succeed_and_the_worker_says_so(
    settings: dict[str, str], tmp_path: Path
) -> None:
    settings |= {"DF_SANDBOX": "off"}
    with workers(tmp_path / "worker", settings, module="tests.support.hostile_worker") as start:
        worker = start()
        # The worker itself is hidden by its own means, but may be signalled.
        assert ORDINARY <= done(outcomes(worker, "runner"))
        assert sandbox(worker) == {"cpu": {"by": None, "lacks": ["off by DF_SANDBOX"]}}
        assert "runners on cpu are not contained: off by DF_SANDBOX" in worker.log.read_text()


@pytest.mark.parametrize("runner_start", ["spawn", "template"])
def test_a_kernel_without_landlock_refuses_the_rest_and_the_worker_says_what_it_lacks(
    settings: dict[str, str], tmp_path: Path, runner_start: str
) -> None:
    settings |= {"DF_RUNNER_START": runner_start}
    module = "tests.support.hostile_worker"
    with workers(
        tmp_path / "worker", settings, module=module, arguments=("--old-kernel",)
    ) as start:
        worker = start()
        by_runner = done(outcomes(worker, "runner"))
        assert by_runner >= FILES
        assert not by_runner & {*SIGNALS, "fork", "execute", "open models", "limit", "trace"}
        assert not by_runner & {"connect to PostgreSQL", "connect to a path", "UDP", "netlink"}
        shown = sandbox(worker)["cpu"]
        assert (shown["by"], shown["lacks"]) == ("seccomp", list(landlock.lacking(0)))
        assert "not refused: files, links between folders" in worker.log.read_text()


def test_a_worker_that_requires_what_the_kernel_lacks_does_not_start(
    settings: dict[str, str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile_worker", "--old-kernel"],
        env=os.environ | settings | {"DF_SANDBOX": "require", "PYTHONPATH": ":".join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "dreamforge worker: DF_SANDBOX=require, and this kernel cannot refuse a runner files"
    )
