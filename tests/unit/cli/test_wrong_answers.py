"""Every field of every answer that the command line reads, with values of other kinds.

Whatever stands in an answer of another server, or of another release, a command prints its result
or ends with one line. The sound answers are the examples of the OpenAPI document.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from pydantic import BaseModel
from tests.support.loopback import serving

from api.openapi import examples
from cli import main
from cli.client import http
from cli.client.connect import connect
from cli.commands import completion
from cli.doctor import stack
from cli.errors import Failure
from cli.terminal.progress_bar import show_progress
from cli.terminal.stage_times import stage_times
from dreamforge_client import exchange
from shared.printable import escape_controls

JOB = str(examples.JOB)
ODD: tuple[Any, ...] = (
    None, True, 7, -1, 2**70, 1.5, 1e308, float("nan"), "", "7", "../x", "x" * 300,
    "\x1b]0;owned\x07\u202e\ud800", [], [None], [[]], {}, {"a": None},
)  # fmt: skip
MISSING = object()
COMMAND_LINE = typer.main.get_command(main.app)  # built for each command line else


def plain(example: BaseModel) -> Any:
    return (
        json.loads(example.model_dump_json(by_alias=True))
        if isinstance(example, BaseModel)
        else example
    )


def event(seq: int, code: str, payload: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    ts = f"2026-01-31T12:00:{seq:02}.000000Z"
    return {
        "seq": seq, "ts": ts, "level": "INFO", "code": code, "message": "m", "payload": payload
    } | more  # fmt: skip


QUEUE = {"position": 3, "exact": True, "starts_in_s": {"low": 12, "high": 40}}
AT_ITEM = {"progress": 0.5, "stage": "sampling", "item_index": 1, "count": 2}
STREAM = [
    event(1, "job.created", {}),
    {"code": "queue", "message": "m", "payload": QUEUE},
    event(2, "step.claimed", {}),
    event(3, "retry", {}, level="WARNING"),
    event(4, "progress", AT_ITEM),
    event(5, "job.finish", {"status": "succeeded"}),
]
LOG = [{"ts": "2026-01-31T12:00:00Z", "level": "INFO", "code": "c", "message": "m"}] * 2
JOBS, JOB_PATH = "/v1/jobs", f"/v1/jobs/{JOB}"
SOUND: dict[str, Any] = {
    JOBS: plain(examples.PAGE),
    JOB_PATH: plain(examples.JOBS["succeeded"]),
    f"{JOB_PATH}/cancel": plain(examples.CANCELS["it runs"]),
    f"{JOB_PATH}/artifacts": plain(examples.ARTIFACTS),
    f"{JOB_PATH}/progress/stream": STREAM,
    f"{JOB_PATH}/logs": LOG,
    "POST /v1/jobs": plain(examples.CREATED),
    "/v1/models": plain(examples.MODELS),
    "/v1/models/m": plain(examples.ONE_MODEL),
    "/v1/usage": {
        "usage": [
            plain(examples.USAGE)["usage"][0],
            plain(examples.USAGE)["usage"][0] | {"tag": {"key": "project", "value": "x"}},
        ],
        "next_cursor": None,
    },
    "/v1/workers": plain(examples.WORKERS),
    "/readyz": {
        "templates": [{"pid": 1, "state": "ready", "model": "m@1", "bytes": 7}],
        "control_groups": {"below": None, "lacks": "no group"},
    },
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answers = SOUND
    streams = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else the kernel waits 40 ms between them

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, answers = self.path.partition("?")[0], self.server.answers
        answer = answers.get(f"{self.command} {path}", answers.get(path))
        status, kind, body = 200, "application/json", json.dumps(answer)
        if path.endswith("/stream"):
            self.server.streams += 1
            # Its events, then the end; whatever number the last of them has.
            status = 200 if self.server.streams == 1 else 204
            kind = "text/event-stream"
            events = answer if isinstance(answer, list) else [answer]
            body = "".join(f"data: {json.dumps(each)}\n\n" for each in events)
        if path.endswith("/logs"):
            lines = answer if isinstance(answer, list) else [answer]
            body = "".join(f"{json.dumps(each)}\n" for each in lines)
        content = b"" if status == 204 else body.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815 - as the library has it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture(autouse=True)
def _address(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One connection for all commands of a test: certificates are read once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "app", COMMAND_LINE)
    monkeypatch.setenv("DF_API_BASE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(exchange, "FIRST_PAUSE_S", 0.0001)
    with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
        monkeypatch.setattr(http, "open_client", lambda **_: client)
        monkeypatch.setattr(client, "close", lambda: None)
        yield


def follow_all() -> None:
    with connect() as client:
        stage_times(list(show_progress(client.stream(JOB, previews=True))))


def ask_worker() -> None:
    with connect() as client:
        list(stack.templates(client.api_base.removeprefix("http://")))


COMMANDS: dict[str, tuple[str | Callable[[], Any], ...]] = {
    JOBS: ("job list", completion.job_ids),
    JOB_PATH: (f"job status {JOB}", f"job watch {JOB}", f"job status {JOB} --output json"),
    f"{JOB_PATH}/cancel": (f"job cancel {JOB}",),
    f"{JOB_PATH}/artifacts": (f"job artifacts {JOB}",),
    f"{JOB_PATH}/progress/stream": (f"job watch {JOB}", follow_all),
    f"{JOB_PATH}/logs": (f"job logs {JOB}", f"job logs {JOB} --output json"),
    "POST /v1/jobs": ("job create x", "job create x --wait"),
    "/v1/models": ("model list", completion.models),
    "/v1/models/m": ("model get m", "preset fit m"),
    "/v1/usage": ("usage", "usage --tag project"),
    "/v1/workers": ("workers",),
    "/readyz": (ask_worker,),
}


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Where a value stands: the whole, and each field; of a list of records all of them."""
    yield ()
    if not isinstance(value, dict | list):
        return
    inner = value if isinstance(value, dict) else dict(enumerate(value))
    for key, each in inner.items():
        yield from ((key, *path) for path in paths(each))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return {} if new is MISSING else new
    copy = value.copy()
    if len(path) == 1 and new is MISSING:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def shown(command: str | Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and output; an exception of another kind than a command's failure is raised."""
    if isinstance(command, str):
        code = main.run(command.split())
    else:
        try:
            command()
            code = 0
        except Failure as failure:
            code = failure.exit_code
    written = capsys.readouterr()
    return code, written.out + written.err


@pytest.mark.parametrize("address", COMMANDS)
def test_a_wrong_value_in_an_answer_is_shown_or_said_in_a_line(
    address: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, sound = itertools.cycle(COMMANDS[address]), SOUND[address]
    odd = itertools.cycle(ODD)
    for number, path in enumerate(paths(sound)):
        # Each value in each place would take a minute: three of them, other ones in each place.
        for new in (MISSING, *(ODD if not path or number < 3 else (next(odd), next(odd)))):
            server.answers = SOUND | {address: replaced(sound, path, new)}
            server.streams = 0
            command = next(commands)
            try:
                code, text = shown(command, capsys)
            except BaseException as error:
                raise AssertionError(f"{command}: {path} is {new!r}") from error
            assert code in range(4), (command, path, new, text)
            assert escape_controls(text, keep="\n") == text, (command, path, new)
            assert "Traceback" not in text


@pytest.mark.parametrize("address", COMMANDS)
def test_the_answers_of_our_api_are_shown(
    address: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = SOUND
    for command in COMMANDS[address]:
        server.streams = 0
        assert shown(command, capsys)[0] == 0, command


def test_the_line_names_address_request_and_field(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = SOUND | {JOBS: {"jobs": [examples.PAGE.jobs[0].model_dump(mode="json")] * 2}}
    server.answers[JOBS]["jobs"][1] = {"id": "x", "status": []}
    code, text = shown("job list", capsys)
    assert code == 2
    assert f"http://127.0.0.1:{server.server_port} does not answer as Dream Forge's API" in text
    assert "to GET /v1/jobs: jobs[1].status should be" in text
    assert "and is a list" in text
