"""Something answers at the address of the API, and it is not our API, or means no good."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.loopback import serving

from cli.client import results
from cli.errors import Failure
from cli.main import run
from dreamforge_client import Client, Unexpected
from shared.printable import escape_controls

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e\r\x08\u2028"
JOB = "00000000-0000-4000-8000-000000000000"
COMMANDS = [
    ["job", "status", JOB],
    ["job", "list"],
    ["job", "cancel", JOB],
    ["job", "artifacts", JOB],
    ["job", "create", "x"],
    ["model", "list"],
    ["model", "get", "x"],
    ["usage"],
]
Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """Answers all alike."""

    daemon_threads = True
    answer: Answer = (200, {}, b"")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = self.server.answer
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - as the library has it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture(autouse=True)
def _address(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DF_API_BASE", f"http://127.0.0.1:{server.server_port}")


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(command)
    written = capsys.readouterr()
    shown = written.out + written.err
    assert code in (1, 2, 3), (command, shown)
    assert "Traceback" not in shown
    assert escape_controls(shown, keep="\n") == shown, repr(shown)
    assert len(shown) < 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"5", b'"x"', b"[]", b"[{}]", b"\xff\xfe", b"[" * 100_000, b"<!doctype html>",
        b'{"a": ' * 100_000, b"9" * 5000, b'{"jobs": [{}], "models": [{}], "artifacts": [{}]}',
        json.dumps({"message": HOSTILE, "usage": [{"day": HOSTILE}], "next_cursor": None}).encode(),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_ours_is_said_in_a_line(
    body: bytes, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (200, {}, body)
    refused(["job", "list"], capsys)


def test_no_command_ends_in_a_traceback(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = (200, {}, b"{}")
    for command in COMMANDS:
        refused(command, capsys)


@pytest.mark.parametrize("command", ["list", "logs", "watch"])
def test_a_body_that_cannot_be_unpacked_is_said_in_a_line(
    command: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (200, {"Content-Encoding": "gzip"}, b"no gzip")
    refused(["job", command, *([] if command == "list" else [JOB])], capsys)


def test_a_page_in_place_of_a_stream_is_said_at_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (200, {"Content-Type": "text/html"}, b"<!doctype html>")
    refused(["job", "watch", JOB], capsys)


@pytest.mark.parametrize("levels", [100, 400, 900])
def test_an_answer_that_is_nested_deeper_than_ours_is_said_in_a_line(
    levels: int, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    request = b'{"request": ' * levels + b"null" + b"}" * levels
    server.answer = (200, {}, b'{"id": "x", "status": "queued", "request": ' + request + b"}")
    refused(["job", "status", JOB, "--output", "json"], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["job", "status", text] for text in ("\0", "a\nb", "\udcff", "\x7f" * 3, "x" * 70_000)),
        ["job", "list", "--cursor", "\udcff"],
        ["job", "create", "\udcff"],
        ["job", "create", "x", "--idempotency-key", "\udcff"],
        ["job", "logs", "\udcff", "--since", "\udcff"],
        ["model", "get", "\udcff"],
        ["usage", "--tag", "\udcff"],
    ],
    ids=lambda arguments: ascii(arguments)[:40],
)
def test_a_text_that_no_request_can_carry_is_said_in_a_line(
    arguments: list[str], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (404, {}, b'{"code": "not_found", "message": "no"}')
    refused(arguments, capsys)


def test_pages_without_an_end_are_not_read_for_ever(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (200, {}, b'{"usage": [], "next_cursor": "x"}')
    refused(["usage"], capsys)


@pytest.mark.parametrize(
    "envelope",
    [
        {"code": HOSTILE, "message": HOSTILE, "details": {HOSTILE: HOSTILE}},
        {"code": "internal", "message": "x", "correlation_id": HOSTILE},
        {"code": "infra_unavailable", "message": HOSTILE},
        {"code": None, "message": None, "details": None},
        {"code": ["x"], "message": {"a": HOSTILE}, "details": [HOSTILE]},
        {"code": "invalid_input", "details": {"errors": 5}},
        {"code": "invalid_input", "details": {"errors": None}},
        {"code": "invalid_input", "details": {"errors": [None, 5, {}, {"field": HOSTILE}]}},
        {"code": "not_found", "details": HOSTILE},
        {"code": "conflict", "details": {"a": {"b": [HOSTILE, {"c": None}]}}},
    ],
    ids=str,
)  # fmt: skip
def test_an_error_of_another_server_is_shown_and_never_obeyed(
    envelope: dict[str, Any], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = (500, {"Retry-After": "999999999"}, json.dumps(envelope).encode())
    refused(["job", "create", "x"], capsys)


@pytest.mark.parametrize(
    ("seed", "format"),
    [
        ("../../x", "png"),
        (7, "/../../../x"),
        (7, "png/../../x"),
        ("\0", "png"),
        (7, ""),
        ("", "png"),
        ([7], "png"),
        (7, "p" * 300),
    ],
)
def test_no_answer_names_a_file_outside_of_the_folder(
    seed: object, format: object, server: Server, tmp_path: Path
) -> None:
    picture = {
        "item_index": 0, "seed": seed, "format": format, "width": 1, "height": 1, "sha256": "0",
        "url": f"http://127.0.0.1:{server.server_port}/x",
    }  # fmt: skip
    server.answer = (200, {}, json.dumps({"artifacts": [picture]}).encode())
    folder = tmp_path / "one" / "two"
    with Client(f"http://127.0.0.1:{server.server_port}") as client:
        with pytest.raises(Unexpected):
            client.save(JOB, folder)
    from cli.client.connect import connect

    with pytest.raises(Failure), connect() as api:
        results.download(api, JOB, "a prompt", folder)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://xn--:1/a", "", "/x", "file:///etc/passwd", "http://[::1", "http://h:x/", None, 5),
        *(
            {},
            "http://a\0b/",
            "http://127.0.0.1:1/\n",
            f"http://{'a' * 300}/",
            "http:///x",
            "data:,x",
        ),
    ],
)
def test_an_address_that_is_none_is_said_in_a_line(url: object, tmp_path: Path) -> None:
    from cli.client.connect import connect

    with pytest.raises(Failure), connect() as api:
        api.save(cast("str", url), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_a_store_is_named_without_user_and_password(tmp_path: Path) -> None:
    from cli.client.connect import connect

    with pytest.raises(Failure) as found, connect() as api:
        api.save("http://user:secret@127.0.0.1:1/x?key=secret", tmp_path / "picture.png")
    assert "http://127.0.0.1:1" in found.value.message
    assert "secret" not in found.value.message


@pytest.mark.parametrize("index", [[1], {}, None, "x", 1.5])
def test_an_item_without_a_number_is_said_in_a_line(
    index: object, server: Server, tmp_path: Path
) -> None:
    picture = {"seed": 7, "format": "png", "width": 1, "height": 1, "sha256": "0", "url": "u"}
    pictures = [{"item_index": each, **picture} for each in (0, index)]
    server.answer = (200, {}, json.dumps({"artifacts": pictures}).encode())
    with Client(f"http://127.0.0.1:{server.server_port}") as client, pytest.raises(Unexpected):
        client.save(JOB, tmp_path)
    from cli.client.connect import connect

    with pytest.raises(Failure), connect() as api:
        results.download(api, JOB, "a prompt", tmp_path)
