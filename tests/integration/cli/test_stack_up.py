"""`dreamforge up` and `dreamforge demo` with every real part: api, worker and a picture at the end.

The tests of one stack share it in the order of this file; the last one ends it.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image

from cli.processes import os_process
from cli.processes.orphans import MARKER

pytestmark = pytest.mark.timeout(240)

UP = "Ctrl-C stops everything"


@dataclass
class Running:
    """A command in the background; all that it prints is in `log`."""

    process: subprocess.Popen[bytes]
    log: Path
    environ: dict[str, str]
    home: Path

    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, *, times: int = 1) -> None:
        def printed() -> bool:
            assert self.process.poll() is None, self.text()
            return self.text().count(text) >= times

        _until(printed, text, self.log)

    def pid(self, part: str) -> int:
        return int(json.loads((self.home / "children.json").read_text())["children"][part][0])

    def everyone(self) -> set[psutil.Process]:
        return os_process.family(psutil.Process(self.process.pid))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _cli(self.environ, *arguments)


def _until(condition: Callable[[], bool], what: str, log: Path, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}\n{log.read_text()}"
        time.sleep(0.05)


def _environ(home: Path) -> dict[str, str]:
    """Settings that suit any machine: free ports, no patience at the end."""
    ours = {"DF_HOME": str(home), "DF_API_PORT": "0", "DF_WORKER_PORT": "0", "DF_DRAIN_S": "0"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    return inherited | ours


def _cli(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # The shared environment has port 0; a client takes the port from the running stack.
    client = {name: value for name, value in environ.items() if not name.endswith("_PORT")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments], env=client, capture_output=True, text=True
    )


def _start(folder: Path, environ: dict[str, str], *arguments: str) -> Running:
    log = folder / "output.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments], env=environ, stdout=file, stderr=file
        )
    return Running(process=process, log=log, environ=environ, home=Path(environ["DF_HOME"]))


def _end(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stack") / "home"


@pytest.fixture(scope="module")
def idle_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State that no `up` of this module keeps busy; every test leaves it free for the next."""
    return tmp_path_factory.mktemp("idle") / "home"


@pytest.fixture(scope="module")
def stack(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = _start(tmp_path_factory.mktemp("up"), _environ(home), "up")
    try:
        running.wait_for(UP)
        yield running
    finally:
        if running.process.poll() is None:
            _end(running)


def test_the_table_names_addresses_that_answer(stack: Running) -> None:
    rows = dict(
        re.findall(r"^(API|Page|Worker metrics|Data and logs) {2,}(\S+)", stack.text(), re.M)
    )
    for url in (
        f"{rows['API']}/readyz",
        rows["Page"],
        f"{rows['API']}/docs",
        rows["Worker metrics"],
    ):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200, url
    assert rows["Data and logs"] == str(stack.home)
    for title in ("PostgreSQL", "Broker", "S3 store", "Models"):
        assert re.search(rf"^{title} +\S+", stack.text(), re.M), title


def test_nothing_that_is_printed_or_logged_holds_a_secret(stack: Running) -> None:
    secrets = json.loads((stack.home / "credentials.json").read_text()).values()
    texts = [stack.text(), *(log.read_text() for log in (stack.home / "logs").iterdir())]
    assert not [secret for secret in secrets for text in texts if secret in text]
    assert (stack.home / "environment.json").stat().st_mode & 0o777 == 0o600


def test_a_second_up_is_refused_by_pid(stack: Running) -> None:
    second = _start(stack.log.parent / "..", stack.environ, "up")
    assert second.process.wait(60) == 1
    lines = second.text().splitlines()
    assert len(lines) == 1
    assert f"in use by another dreamforge (pid {stack.process.pid})" in lines[0]
    assert stack.process.poll() is None


def test_a_picture_is_generated_and_saved(stack: Running, tmp_path: Path) -> None:
    done = stack.cli("generate", "a red apple", "--seed", "7", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "a-red-apple-7.png"
    assert done.stdout == f"{picture}\n"
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert "a red apple" in image.info["parameters"]


def test_a_job_can_be_created_watched_listed_and_read(stack: Running, tmp_path: Path) -> None:
    made = stack.cli(
        "job", "create", "x", "--count", "2", "--download", str(tmp_path), "-o", "json"
    )
    assert made.returncode == 0, made.stderr
    job = json.loads(made.stdout)
    assert job["summary"] == {"count": 2, "completed": 2}
    assert len(job["files"]) == len(list(tmp_path.iterdir())) == 2
    assert job["id"] in stack.cli("job", "list").stdout
    codes = [json.loads(line)["code"] for line in
             stack.cli("job", "logs", job["id"], "-o", "json").stdout.splitlines()]  # fmt: skip
    assert codes[0] == "job.created"
    assert "job.finish" in codes


def test_an_item_of_a_batch_is_drawn_again_from_what_its_file_says(
    stack: Running, tmp_path: Path
) -> None:
    made = stack.cli(
        "job", "create", "pumpkin", "--count", "2", "--seed", "5", "--steps", "4",
        "--scheduler", "euler_a", "--negative-prompt", "heart", "--download", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    again = stack.cli(
        "inspect", str(tmp_path / "pumpkin-6.png"), "--rerun", "--out", str(tmp_path / "again")
    )
    assert again.returncode == 0, again.stderr
    assert "the same picture, pixel for pixel" in again.stderr
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["pumpkin-6.png"]


def test_a_field_beyond_its_limit_is_refused_with_field_and_limit(stack: Running) -> None:
    refused = stack.cli("job", "create", "x", "--width", "65")
    assert refused.returncode == 2
    assert "width" in refused.stderr
    assert "multiple of 8" in refused.stderr


def test_a_model_folder_is_imported_into_the_running_stack(stack: Running) -> None:
    folder = next((stack.home / "models").glob("*/*@*"))
    done = stack.cli("model", "import", str(folder), "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] in stack.cli("model", "list").stdout
    assert folder.name in stack.cli("model", "list").stdout


def test_presets_are_compared_with_a_model_of_the_running_stack(stack: Running) -> None:
    done = stack.cli("preset", "fit", "dreamforge-demo@1", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert {row["preset"]: row["fits"] for row in json.loads(done.stdout)}["cpu"] is True


def test_doctor_finds_a_running_stack_well(stack: Running) -> None:
    result = stack.cli("doctor")
    assert result.returncode == 0, result.stdout
    assert f"runs (pid {stack.process.pid})" in result.stdout
    for part in ("PostgreSQL: listens", "Broker: listens", "S3 store: listens", "api: ready"):
        assert part in result.stdout


@pytest.mark.parametrize("part", ["worker", "postgres"])
def test_a_part_that_is_killed_comes_back(stack: Running, part: str) -> None:
    title = {"postgres": "PostgreSQL"}.get(part, part)
    before = stack.pid(part)
    os.kill(before, signal.SIGKILL)
    stack.wait_for(f"{title} died (killed by SIGKILL), starting it again in 0.5 s")
    stack.wait_for(f"{title} is back")
    assert stack.pid(part) != before


def test_five_deaths_in_a_minute_end_everything_and_say_why(stack: Running) -> None:
    started = stack.everyone()
    for death in range(1, 6):
        os.kill(stack.pid("broker"), signal.SIGKILL)
        if death < 5:
            stack.wait_for("Broker is back", times=death)
            started |= stack.everyone()
    assert stack.process.wait(60) == 1
    assert "Broker died 5 times in 60 s, last by killed by SIGKILL" in stack.text()
    assert f"{stack.home}/logs/broker.log" in stack.text()
    assert os_process.wait_gone(started, 0.0) == set()
    assert not (stack.home / "environment.json").exists()


def test_demo_draws_a_picture_and_stops_all(idle_home: Path, tmp_path: Path) -> None:
    environ = _environ(idle_home)
    demo = _start(tmp_path, environ, "demo", "--out", str(tmp_path / "out"))
    assert demo.process.wait(120) == 0, demo.text()
    picture = tmp_path / "out" / "a-red-apple-7.png"
    assert str(picture) in demo.text().splitlines()
    with Image.open(picture) as image:
        assert image.size == (256, 256)
        assert "Postprocess upscaler: dreamforge-upscaler@1" in image.info["parameters"]
        image.verify()
    assert re.search(r"^upscale +\d+\.\d\d$", demo.text(), re.M)
    assert re.search(r"^total +\d+\.\d\d$", demo.text(), re.M)
    assert re.search(r"^.*queue.* +\d+\.\d\d$", demo.text(), re.M)
    assert os_process.with_environ(MARKER, str(idle_home)) == set()


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        pytest.param("starting api and worker", signal.SIGINT, marks=pytest.mark.slow),
        ("load 0%", signal.SIGTERM),
    ],
)
def test_demo_interrupted_at_any_moment_leaves_no_process(
    idle_home: Path, tmp_path: Path, moment: str, sent: signal.Signals
) -> None:
    demo = _start(tmp_path, _environ(idle_home), "demo", "--out", str(tmp_path / "out"))
    demo.wait_for(moment)
    started = demo.everyone()
    demo.process.send_signal(sent)
    assert demo.process.wait(60) == 128 + sent
    assert os_process.wait_gone(started, 0.0) == set()
    assert os_process.with_environ(MARKER, str(idle_home)) == set()


def test_ctrl_c_ends_up_with_exit_code_0_and_no_process(idle_home: Path, tmp_path: Path) -> None:
    up = _start(tmp_path, _environ(idle_home), "up")
    up.wait_for(UP)
    started = up.everyone()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert up.text().splitlines()[-1] == "stopped"
    assert os_process.wait_gone(started, 0.0) == set()


@pytest.mark.parametrize("setting", ["DF_API_PORT", "DF_WORKER_PORT"])
def test_a_taken_port_is_one_line_with_port_and_setting(tmp_path: Path, setting: str) -> None:
    environ = _environ(tmp_path / "home")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        refused = _start(tmp_path, {**environ, setting: port}, "up")
        assert refused.process.wait(60) == 1
    lines = refused.text().splitlines()
    assert len(lines) == 1
    assert f"port {port}" in lines[0]
    assert setting in lines[0]
