"""The job commands against an HTTP server that answers like the API, cuts streams and fails."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.support.loopback import serving

from cli.client import sse
from cli.client.http import Client
from cli.errors import Unreachable
from cli.main import run
from dreamforge_client import exchange

JOB = "01890000-0000-7000-8000-000000000000"
MODEL = "01890000-0000-7000-8000-00000000000a"


class FakeApi(ThreadingHTTPServer):
    """Records requests; streams `events` in pieces of `cut_after`, then closes the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []
        self.status = "succeeded"
        self.events = [_event(1, "job.created"), _event(2, "step.start"), _event(3, "job.finish")]
        self.queue: dict[str, Any] = {}  # of its place, before the events
        self.cut_after = 100
        self.more: dict[str, Any] = {}  # of its job
        self.refuse: tuple[int, dict[str, Any]] | None = None
        self.workers: dict[str, Any] = {"workers": [], "queue": []}
        self.proxy: list[int] = []  # what a proxy before us answers first, one a request

    def job(self) -> dict[str, Any]:
        error = {"code": "oom", "message": "out of memory", "details": {}}
        return {
            "id": JOB,
            "type": "generate",
            "status": self.status,
            "created_at": "2026-01-01T00:00:00Z",
            "summary": {"count": 1, "completed": 1},
            "error": error if self.status == "failed" else None,
            **self.more,
        }


class _Handler(BaseHTTPRequestHandler):
    server: FakeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._record(json.loads(body) if body else None)
        if self.server.proxy:
            self._by_the_proxy()
        elif self.server.refuse:
            self._json(*self.server.refuse)
        else:
            self._json(202, {"job": {**self.server.job(), "status": "queued"}})

    def _by_the_proxy(self) -> None:
        status = self.server.proxy.pop(0)
        if status:
            self._body(status, b"<html>Bad Gateway</html>", "text/html")
        else:  # not even that
            self.close_connection = True

    def do_DELETE(self) -> None:
        self._record(None)
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self._record(None)
        path = self.path.partition("?")[0]
        if self.server.proxy:
            self._by_the_proxy()
        elif path.endswith("/progress/stream"):
            self._stream()
        elif path == f"/v1/jobs/{JOB}":
            self._json(200, self.server.job())
        elif path == "/v1/jobs":
            self._json(200, {"jobs": [self.server.job()], "next_cursor": "more"})
        elif path == "/v1/models":
            model: dict[str, Any] = {
                "id": MODEL,
                "name": "tiny",
                "version": "1",
                "kind": "sd",
                "warm": [],
            }
            model |= {"installed": True, "enabled": True}
            model |= {"checkpoint_sha256": "0" * 64, "parameters_schema": {}}
            self._json(200, {"models": [model]})
        elif path == "/v1/workers":
            self._json(200, self.server.workers)
        elif path.endswith("/artifacts"):
            artifact = {"step": "generate", "item_index": 0, "seed": 7, "format": "png"}
            artifact |= {"width": 8, "height": 8, "sha256": "0" * 64}
            url = f"{self.server.base}/picture?signature=x"
            self._json(200, {"artifacts": [{**artifact, "url": url}]})
        elif path == "/picture":
            self._body(200, b"picture", "image/png")
        elif path.endswith("/logs"):
            lines = "".join(json.dumps(event) + "\n" for event in self.server.events)
            self._body(200, lines.encode(), "application/x-ndjson")
        else:
            self._json(404, {"code": "not_found", "message": f"no {path}", "details": {}})

    def _record(self, body: Any) -> None:
        self.server.requests.append((self.command, self.path, body, dict(self.headers)))

    def _stream(self) -> None:
        after = int(self.headers.get("Last-Event-ID", 0))
        todo = [event for event in self.server.events if event["seq"] > after]
        if not todo:
            self.send_response(204)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": heartbeat\n\n")
        if "previews=false" not in self.path:
            self.wfile.write(b'event: preview\ndata: {"item_index": 0, "image": "data:"}\n\n')
        if self.server.queue:
            place = {"code": "queue", "level": "INFO", "payload": self.server.queue}
            self.wfile.write(f"event: queue\ndata: {json.dumps(place)}\n\n".encode())
        for event in todo[: self.server.cut_after]:
            self.wfile.write(f"id: {event['seq']}\ndata: {json.dumps(event)}\n\n".encode())
        self.close_connection = True

    def _json(self, status: int, content: Any) -> None:
        self._body(status, json.dumps(content).encode(), "application/json")

    def _body(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _event(seq: int, code: str, **payload: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "ts": f"2026-01-01T00:00:{seq:02d}Z",
        "level": "INFO",
        "code": code,
        "message": f"message {seq}",
        "job_id": JOB,
        "step_id": None,
        "item_index": None,
        "payload": payload or None,
    }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with serving(FakeApi()) as server:
        monkeypatch.setenv("DF_API_BASE", server.base)
        yield server


def test_create_sends_only_what_was_given(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["job", "create", "a red apple", "--seed", "7", "--width", "64", "--model", "tiny"]
    assert run([*arguments, "--idempotency-key", "k", "--no-metadata", "-o", "json"]) == 0
    method, path, body, headers = api.requests[-1]
    assert (method, path) == ("POST", "/v1/jobs")
    assert body == {
        "type": "generate",
        "prompt": "a red apple",
        "seed": 7,
        "width": 64,
        "model_id": "tiny",
        "embed_metadata": False,
    }
    assert headers["Idempotency-Key"] == "k"
    assert json.loads(capsys.readouterr().out)["id"] == JOB


def test_generate_watches_downloads_and_prints_the_path(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", "a red apple", "--out", str(tmp_path / "out")]) == 0
    picture = tmp_path / "out" / "a-red-apple-7.png"
    assert picture.read_bytes() == b"picture"
    assert capsys.readouterr().out == f"{picture}\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [picture.name]


def test_a_job_that_failed_is_exit_code_1_with_its_reason(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = "failed"
    assert run(["job", "watch", JOB]) == 1
    printed = capsys.readouterr().err
    assert f"job {JOB} failed: out of memory (oom)" in printed
    assert f"dreamforge job logs {JOB}" in printed


def test_a_job_that_failed_is_printed_with_what_there_is_of_it_before_it_is_an_error(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = "failed"
    arguments = [
        "job",
        "create",
        "a red apple",
        "--wait",
        "--download",
        str(tmp_path),
        "-o",
        "json",
    ]
    assert run(arguments) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "oom")
    assert [Path(path).read_bytes() for path in shown["files"]] == [b"picture"]


def test_a_job_shows_its_steps_and_that_it_was_asked_to_stop(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = "running"
    api.more = {
        "steps": [
            {"name": "generate", "status": "succeeded"},
            {"name": "upscale", "status": "running"},
        ],
        "cancel_requested_at": "2026-01-01T00:00:01Z",
        "finished_at": None,
    }
    assert run(["job", "cancel", JOB]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "status running, asked to stop" in shown
    assert {"step generate succeeded", "step upscale running"} <= set(shown)


def test_generate_prints_what_was_saved_of_a_job_that_failed(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status = "failed"
    assert run(["generate", "a red apple", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'a-red-apple-7.png'}\n"
    assert "out of memory (oom)" in printed.err


def test_generate_takes_what_create_takes(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "a red apple", "--format", "jpg", "--preset", "cpu", "--timeout", "9"]
    more = ["--no-metadata", "--idempotency-key", "k", "--out", str(tmp_path), "-o", "json"]
    assert run(arguments + more) == 0
    ((_, _, body, headers),) = [request for request in api.requests if request[0] == "POST"]
    assert body == {
        "type": "generate",
        "prompt": "a red apple",
        "format": "jpg",
        "preset": "cpu",
        "timeout_s": 9.0,
        "embed_metadata": False,
    }
    assert headers["Idempotency-Key"] == "k"
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "a-red-apple-7.png")]


@pytest.mark.parametrize("command", [["job", "create"], ["generate"]])
def test_every_option_reaches_the_request_under_its_name(
    api: FakeApi, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {
        "--image": JOB, "--strength": "0.5", "--mask": MODEL,
        "--negative-prompt": "blur", "--width": "64", "--height": "72", "--steps": "3",
        "--guidance": "2.5", "--scheduler": "euler", "--seed": "7", "--count": "2",
        "--format": "jpg", "--upscale": "2", "--upscale-impl": "gan", "--upscaler": "big@1",
        "--model": "tiny", "--preset": "cpu", "--timeout": "9", "--idempotency-key": "k",
    }  # fmt: skip
    arguments = [word for option in options.items() for word in option]
    arguments += ["--tag", "project=shop", "--tag", "note=a=b"]
    assert run([*command, "a red apple", *arguments, "--strict-scale", "--no-metadata"]) == 0
    ((_, _, body, headers),) = [request for request in api.requests if request[0] == "POST"]
    upscale = {"scale": 2, "impl": "gan", "model_id": "big@1", "strict_scale": True}
    assert body == {
        "type": "generate", "prompt": "a red apple", "negative_prompt": "blur",
        "width": 64, "height": 72, "steps": 3, "guidance": 2.5, "scheduler": "euler",
        "seed": 7, "count": 2, "format": "jpg", "chain": {"upscale": upscale},
        "model_id": "tiny", "preset": "cpu", "timeout_s": 9.0, "embed_metadata": False,
        "tags": {"project": "shop", "note": "a=b"},
        "image": JOB, "strength": 0.5, "mask": MODEL,
    }  # fmt: skip
    assert headers["Idempotency-Key"] == "k"


def keys_sent(api: FakeApi) -> list[str | None]:
    return [headers.get("Idempotency-Key") for method, *_, headers in api.requests]


def test_every_create_has_a_key_and_each_its_own(api: FakeApi) -> None:
    assert run(["job", "create", "a red apple"]) == run(["job", "create", "a red apple"]) == 0
    first, second = keys_sent(api)
    assert first and second and first != second


@pytest.mark.parametrize("lost", [[0, 502], [503, 504]])
def test_a_create_whose_answer_is_lost_is_sent_again_with_the_same_key(
    api: FakeApi,
    lost: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(exchange, "CREATE_PAUSES_S", (0.01, 0.01))
    api.proxy = lost
    assert run(["job", "create", "a red apple", "-o", "json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["id"] == JOB
    assert printed.err.count("trying again in 0.01 s") == 2
    assert len(keys_sent(api)) == 3
    assert len(set(keys_sent(api))) == 1


def test_a_create_that_is_never_answered_is_given_up(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exchange, "CREATE_PAUSES_S", (0.01, 0.01))
    api.refuse = (503, {"code": "infra_unavailable", "message": "away", "correlation_id": "c1"})
    assert run(["job", "create", "a red apple"]) == 3
    assert len(api.requests) == 3
    printed = capsys.readouterr().err
    assert "dreamforge: away" in printed
    assert "correlation id: c1" in printed


def test_a_refusal_is_never_sent_again(api: FakeApi) -> None:
    api.refuse = (429, {"code": "rate_limited", "message": "wait", "details": {}})
    assert run(["job", "create", "a red apple"]) == 3
    assert len(api.requests) == 1


def test_a_refused_request_is_exit_code_2_with_field_and_limit(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    details = {"errors": [{"field": "width", "message": "must be a multiple of 8"}]}
    api.refuse = (422, {"code": "invalid_input", "message": "not valid", "details": details})
    assert run(["job", "create", "x", "--width", "65"]) == 2
    assert "  width: must be a multiple of 8\n" in capsys.readouterr().err


def test_the_key_goes_to_the_api_and_to_nobody_else(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DF_API_KEY", "k1")
    assert run(["generate", "a red apple", "--out", str(tmp_path)]) == 0
    shown = {path.partition("?")[0]: headers for _, path, _, headers in api.requests}
    assert "Authorization" not in shown.pop("/picture")  # the store's URL is its own permission
    assert len(shown) >= 3
    assert {headers.get("Authorization") for headers in shown.values()} == {"Bearer k1"}


def test_a_key_that_no_header_can_carry_is_said(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_API_KEY", "k\n1")
    assert run(["job", "list"]) == 2
    assert "DF_API_KEY" in capsys.readouterr().err
    assert api.requests == []


def test_an_address_that_is_none_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_API_BASE", "localhost:8001")
    assert run(["job", "list"]) == 2
    assert "DF_API_BASE, or DF_API_HOST and DF_API_PORT: must" in capsys.readouterr().err


def test_an_api_that_is_not_there_is_exit_code_3_with_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("DF_API_BASE", base)
    assert run(["job", "list"]) == 3
    printed = capsys.readouterr().err
    assert base in printed
    assert "DF_API_BASE" in printed


def test_a_server_that_is_not_ours_is_said_to_be(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse = (500, {"detail": "another server"})
    assert run(["job", "cancel", JOB]) == 2
    assert "answered 500: is it Dream Forge's API?" in capsys.readouterr().err


def test_a_list_of_tags_is_asked_for(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "list", "--tag", "project=shop", "--tag", "note=a b"]) == 0
    assert api.requests[-1][1] == "/v1/jobs?tag=project%3Dshop&tag=note%3Da+b"
    assert run(["job", "create", "an apple", "--tag", "project"]) == 2
    assert "'project' is no key=value" in capsys.readouterr().err


def test_a_job_is_deleted(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "delete", JOB, "-o", "json"]) == 0
    assert [request[:2] for request in api.requests] == [("DELETE", f"/v1/jobs/{JOB}")]
    assert json.loads(capsys.readouterr().out) == {"id": JOB, "deleted": True}


def test_an_unknown_job_shows_the_envelopes_message(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["job", "status", "nope"]) == 2
    assert "no /v1/jobs/nope" in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2() -> None:
    assert run(["job", "create"]) == 2
    assert run(["nonsense"]) == 2


def test_a_stream_that_is_cut_is_resumed_without_loss_or_repeat(api: FakeApi) -> None:
    api.events = [_event(seq, "progress") for seq in range(1, 8)]
    api.cut_after = 3
    with Client(api.base) as client:
        seen = [event["seq"] for event in client.stream(JOB)]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    last_ids = [headers.get("Last-Event-ID") for _, _, _, headers in api.requests]
    assert last_ids == [None, "3", "6", "7"]


def test_a_stream_outlives_a_proxy_that_answers_while_its_api_restarts(api: FakeApi) -> None:
    api.proxy = [502, 0, 503, 504]
    with Client(api.base) as client:
        seen = [event["seq"] for event in client.stream(JOB)]
    assert seen == [1, 2, 3]
    assert api.proxy == []


def test_a_stream_whose_api_stays_away_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "GIVE_UP_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = f"http://127.0.0.1:{server.getsockname()[1]}"
    with Client(base) as client, pytest.raises(Unreachable):
        list(client.stream(JOB))


def test_a_stream_in_the_background_ticks_and_passes_errors_on() -> None:
    ticks: list[int] = []

    def source() -> Iterator[dict[str, Any]]:
        yield _event(1, "progress")
        raise Unreachable("http://x", "gone")

    events = sse.read_in_background(source(), lambda: ticks.append(1))
    assert next(events)["seq"] == 1
    with pytest.raises(Unreachable):
        next(events)
    assert ticks


def test_logs_are_ndjson_or_readable(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "logs", JOB, "--tail", "3", "-o", "json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3]
    assert "tail=3" in api.requests[-1][1]
    assert run(["job", "logs", JOB, "--level", "warning"]) == 0
    assert api.requests[-1][1].endswith("?level=WARNING")
    assert run(["job", "logs", JOB, "--level", "loud"]) == 2
    capsys.readouterr()
    assert run(["job", "logs", JOB]) == 0
    assert "INFO    step.start" in capsys.readouterr().out


def offered(shell: str, line: str) -> str:
    """What the installed command offers at the end of this line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    completion = {
        "_DREAMFORGE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = Path(sys.executable).with_name("dreamforge")
    done = subprocess.run(
        [command], env=os.environ | words | completion, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_tab_offers_job_ids_and_models(api: FakeApi, shell: str) -> None:
    assert JOB in offered(shell, f"dreamforge job status {JOB[:4]}")
    assert JOB not in offered(shell, "dreamforge job status x")
    assert "tiny@1" in offered(shell, "dreamforge job create x --model t")


def test_a_tab_without_an_api_offers_nothing_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DF_API_BASE", "http://127.0.0.1:1")
    assert offered("bash", "dreamforge job status 8").strip() == ""


def test_lists_are_tables_or_json(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "list", "--status", "failed", "--limit", "5"]) == 0
    shown = capsys.readouterr()
    assert JOB in shown.out
    assert "--cursor more" in shown.err
    assert "status=failed&limit=5" in api.requests[-1][1]
    assert run(["job", "artifacts", JOB, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["seed"] == 7
    assert run(["model", "list"]) == 0
    assert "tiny@1" in capsys.readouterr().out


def test_a_model_that_the_api_does_not_have_is_its_refusal_with_a_hint(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.refuse = (422, {"code": "model_unavailable", "message": "no such model", "details": {}})
    assert run(["job", "create", "x", "--model", "tiny@2"]) == 2
    printed = capsys.readouterr().err
    assert "no such model" in printed
    assert "dreamforge model list" in printed
    assert [body["model_id"] for _, _, body, _ in api.requests] == ["tiny@2"]


def test_a_model_is_looked_up_by_the_api_whatever_its_name_holds(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", "get", "a/b c?#@2"]) == 2
    assert [path for _, path, _, _ in api.requests] == ["/v1/models/a%2Fb%20c%3F%23@2"]
    assert "there is no model a/b c?#@2" in capsys.readouterr().err


def test_a_place_in_the_queue_is_no_event_that_a_client_resumes_after(api: FakeApi) -> None:
    api.queue = {"position": 2, "exact": True, "starts_in_s": None}
    api.cut_after = 2
    with Client(api.base) as client:
        codes = [event["code"] for event in client.stream(JOB)]
    assert [code for code in codes if code != "queue"] == [
        "job.created",
        "step.start",
        "job.finish",
    ]
    resumed = [headers.get("Last-Event-ID") for _, _, _, headers in api.requests]
    assert resumed == [None, "2", "3"]


def test_workers_are_shown_with_their_slots_and_with_what_waits(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["workers"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no worker lives" in shown.err
    slot = {"id": "0", "class": "A GPU", "state": "held", "total_bytes": 8 * 10**9}
    slots = [
        slot | {"free_bytes": 2 * 10**9, "job_id": JOB},
        slot | {"id": "1", "state": "free", "free_bytes": None, "job_id": None},
    ]
    waiting = {"device": "cuda", "priority": "low", "user": "ada", "waiting": 500, "exact": False}
    worker = {"id": MODEL, "host": None, "slots": slots}
    api.workers = {"workers": [worker], "queue": [waiting]}
    assert run(["workers"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        f"{MODEL} 0 A GPU held 6.0 of 8.0 GB {JOB}",
        f"{MODEL} 1 A GPU free ? of 8.0 GB -",
        "",
        "waiting priority user device",
        "500 or more low ada cuda",
    ]
    assert run(["workers", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == api.workers
