"""One file over HTTP, from hosts that answer correctly and badly. Real sockets."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.loopback import hosts, send

from cli.download import transfer
from cli.download.retry import RetryPolicy
from cli.download.source import Credential, RemoteFile, parse_origin
from cli.download.transfer import Part, SignInRequired, Transfer
from cli.errors import Failure
from cli.models.store import SPARE_BYTES

CONTENT = bytes(range(256)) * 1024  # 256 KiB
SUM = hashlib.sha256(CONTENT).hexdigest()
Request = BaseHTTPRequestHandler
Answer = Callable[[Request], None]


class Host:
    """A server whose answers a test gives, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = []
        self.seen: list[dict[str, str]] = []

    def respond(self, _: str, request: Request) -> None:
        self.seen.append(dict(request.headers.items()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(request)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    with hosts(("host",), host.respond) as urls:
        host.url = urls["host"]
        yield host


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(host: Host, tmp_path: Path) -> Iterator[Fetch]:
    with ExitStack() as stack:

        def fetch(
            *, size_bytes: int | None = len(CONTENT), path: str = "x.safetensors", attempts: int = 4
        ) -> Path:
            part = tmp_path / "x.part"
            transfer = Transfer(
                credential=Credential(token="secret", origin=parse_origin(host.url)),
                remedy="sign in",
                policy=RetryPolicy(attempts=attempts, first_wait_s=0.001),
            )
            stack.callback(transfer.close)
            file = RemoteFile(path=path, url=f"{host.url}/file", size_bytes=size_bytes, sha256=SUM)
            transfer.fetch(Part(file=file, path=part, on_bytes=lambda here: None))
            return part

        yield fetch


def whole(headers: dict[str, str] | None = None, *, cut: int | None = None) -> Answer:
    return lambda request: send(request, 200, CONTENT, headers, cut_bytes=cut)


def rest(headers: dict[str, str], *, start: int | None = None, cut: int | None = None) -> Answer:
    """Go on where the request says, or at `start`."""

    def answer(request: Request) -> None:
        requested = request.headers.get("Range", "bytes=0-")
        begin = int(requested.removeprefix("bytes=").removesuffix("-")) if start is None else start
        place = {"Content-Range": f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"}
        send(request, 206, CONTENT[begin:], place | headers, cut_bytes=cut)

    return answer


def ranges(host: Host) -> list[str | None]:
    return [headers.get("Range") for headers in host.seen]


ETAG = {"ETag": '"one"'}
OLD = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}


@pytest.mark.parametrize("validator", [ETAG, OLD], ids=["etag", "date"])
def test_a_cut_file_goes_on_where_it_was(
    host: Host, fetch: Fetch, validator: dict[str, str]
) -> None:
    host.answers = [whole(validator, cut=100_000), rest(validator)]
    assert fetch().read_bytes() == CONTENT
    assert ranges(host) == [None, "bytes=100000-"]
    assert host.seen[1]["If-Range"] == next(iter(validator.values()))


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}], ids=["none", "weak"])
def test_without_a_validator_a_cut_file_is_begun_again(
    host: Host, fetch: Fetch, headers: dict[str, str]
) -> None:
    host.answers = [whole(headers, cut=100_000), whole(headers)]
    assert fetch().read_bytes() == CONTENT
    assert ranges(host) == [None, None]


@pytest.mark.parametrize(
    "bad",
    [rest({"ETag": '"two"'}), rest(ETAG, start=7), lambda r: send(r, 416, b"")],
    ids=["another file", "another place", "too short"],
)
def test_an_answer_that_does_not_go_on_with_our_file_is_not_appended(
    host: Host, fetch: Fetch, bad: Answer
) -> None:
    host.answers = [whole(ETAG, cut=100_000), bad, whole(ETAG)]
    assert fetch().read_bytes() == CONTENT
    assert ranges(host) == [None, "bytes=100000-", None]


def test_a_validator_that_could_not_be_sent_is_not_kept(host: Host, fetch: Fetch) -> None:
    host.answers = [whole({"ETag": '"\u00fcber"'}, cut=100_000), whole()]
    assert fetch().read_bytes() == CONTENT
    assert ranges(host) == [None, None]


def test_a_rest_that_comes_in_pieces_is_put_together(host: Host, fetch: Fetch) -> None:
    """As from a network of caches that answers a range with less than all that is left of it."""

    def piece(request: Request) -> None:
        begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        end = min(begin + 50_000, len(CONTENT))
        place = {"Content-Range": f"bytes {begin}-{end - 1}/{len(CONTENT)}"}
        send(request, 206, CONTENT[begin:end], place | ETAG)

    host.answers = [whole(ETAG, cut=100_000), piece]
    assert fetch().read_bytes() == CONTENT
    assert ranges(host)[:3] == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("target", ["ftp://example.invalid/x", "http://h:99999/x"])
def test_a_redirect_to_no_address_ends_with_a_line(host: Host, fetch: Fetch, target: str) -> None:
    host.answers = [lambda r: send(r, 302, b"", {"Location": target})]
    with pytest.raises(Failure):
        fetch()
    assert len(host.seen) == 1, "asking again would not help"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": f"bytes 0-1/{'9' * 5000}"},
        {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 +99999999999", "Date": "x"},
    ],
)
def test_headers_that_make_no_sense_are_no_crash(
    host: Host, fetch: Fetch, headers: dict[str, str]
) -> None:
    host.answers = [whole(headers)]
    assert fetch().read_bytes() == CONTENT


def test_a_host_that_hands_out_a_byte_at_a_time_is_given_up(host: Host, fetch: Fetch) -> None:
    host.answers = [whole(ETAG, cut=1), rest(ETAG, cut=1)]
    with pytest.raises(Failure, match="the connection was cut") as caught:
        fetch()
    assert caught.value.exit_code == 3
    assert len(host.seen) == 4


def test_a_host_that_moves_in_small_steps_is_not_given_up(host: Host, fetch: Fetch) -> None:
    host.answers = [whole(ETAG, cut=20_000), rest(ETAG, cut=20_000)]
    assert fetch(attempts=2).read_bytes() == CONTENT
    assert len(host.seen) == 14


def test_a_circle_of_redirects_ends_with_a_line(host: Host, fetch: Fetch) -> None:
    host.answers = [lambda r: send(r, 302, b"", {"Location": f"{host.url}/file"})]
    with pytest.raises(Failure, match="sends us in a circle"):
        fetch()


@pytest.mark.parametrize(
    ("answer", "path", "refused"),
    [
        (b"<!DOCTYPE html><p>Sign in" + b" " * len(CONTENT), "x.safetensors", True),
        (b"\n <HTML>" + b" " * len(CONTENT), "config.json", True),
        (b"<html> in a readme", "README.md", False),
    ],
)
def test_a_page_is_known_by_its_first_bytes_whatever_it_is_called(
    host: Host, fetch: Fetch, answer: bytes, path: str, refused: bool
) -> None:
    host.answers = [lambda r: send(r, 200, answer, {"Content-Type": "application/octet-stream"})]
    if not refused:
        assert fetch(size_bytes=len(answer), path=path).read_bytes() == answer
        return
    with pytest.raises(SignInRequired, match="sent a web page; most likely it wants a sign-in"):
        fetch(size_bytes=len(answer), path=path)


@pytest.mark.parametrize(
    ("length", "why"),
    [(94, "sent 94 bytes instead of"), (len(CONTENT) + 1, "longer than the")],
)
def test_another_length_than_announced_is_another_file(
    host: Host, fetch: Fetch, length: int, why: str
) -> None:
    host.answers = [lambda r: send(r, 200, b"x" * length)]
    with pytest.raises(Failure, match=why):
        fetch()
    assert len(host.seen) == 1, "asking again would not help"


def test_a_body_without_a_length_that_does_not_end_stops_at_the_announced_size(
    host: Host, fetch: Fetch
) -> None:
    def endless(request: Request) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(CONTENT)
        except ConnectionError:
            return

    host.answers = [endless]
    with pytest.raises(Failure, match="longer than the"):
        fetch()


def test_a_file_that_would_fill_the_disk_is_refused_before_it_is_fetched(
    host: Host, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=SPARE_BYTES + len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    host.answers = [whole()]
    with pytest.raises(Failure, match=r"to come, .* GB free at") as caught:
        fetch(size_bytes=None)
    assert "DF_MODELS_DIR" in caught.value.hint
    assert not (tmp_path / "x.part").exists()


def test_a_disk_that_fills_while_we_write_ends_the_download(
    host: Host, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "CHECK_DISK_EVERY_BYTES", 1)
    answers = iter([SPARE_BYTES * 2, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(answers)))
    host.answers = [whole()]
    with pytest.raises(Failure, match="GB free at"):
        fetch()


def test_the_token_is_shown_to_its_origin_and_taken_off_for_another(
    fetch: Fetch, host: Host
) -> None:
    seen: list[str | None] = []

    def respond(_: str, request: Request) -> None:
        seen.append(request.headers.get("Authorization"))
        send(request, 200, CONTENT)

    with hosts(("other",), respond) as urls:
        host.answers = [lambda r: send(r, 302, b"", {"Location": f"{urls['other']}/file"})]
        assert fetch().read_bytes() == CONTENT
    assert host.seen[0]["Authorization"] == "Bearer secret"
    assert seen == [None]


def compressed(
    headers: dict[str, str], body: bytes | None = None, cut: int | None = None
) -> Answer:
    packed = gzip.compress(CONTENT) if body is None else body
    return lambda request: send(
        request, 200, packed, {"Content-Encoding": "gzip"} | headers, cut_bytes=cut
    )


@pytest.mark.parametrize("size_bytes", [len(CONTENT), None])
def test_a_host_that_compresses_all_the_same_is_understood(
    host: Host, fetch: Fetch, size_bytes: int | None
) -> None:
    host.answers = [compressed({"ETag": '"one"'})]
    assert fetch(size_bytes=size_bytes).read_bytes() == CONTENT
    assert host.seen[0]["Accept-Encoding"] == "identity"


def test_a_compressed_answer_that_is_cut_starts_again(host: Host, fetch: Fetch) -> None:
    host.answers = [compressed({"ETag": '"one"'}, cut=300), whole()]
    assert fetch().read_bytes() == CONTENT
    assert "Range" not in host.seen[1]


def test_a_compressed_rest_is_not_appended(host: Host, fetch: Fetch) -> None:
    etag = {"ETag": '"one"'}
    host.answers = [
        whole(etag, cut=100_000),
        rest(etag | {"Content-Encoding": "gzip"}),
        whole(etag),
    ]
    assert fetch().read_bytes() == CONTENT


def test_a_compressed_answer_is_held_to_the_announced_length(host: Host, fetch: Fetch) -> None:
    host.answers = [compressed({}, gzip.compress(bytes(50 << 20)))]
    with pytest.raises(Failure, match="longer than the"):
        fetch()
    host.answers = [compressed({}, gzip.compress(CONTENT[:-1]))]
    with pytest.raises(Failure, match="ended after"):
        fetch()
    host.answers = [compressed({}, b"no gzip at all")]
    with pytest.raises(Failure, match="sent what cannot be unpacked"):
        fetch()
    host.answers = [compressed({"Content-Encoding": "br"})]
    with pytest.raises(Failure, match=r"sends it compressed \(br\), unasked"):
        fetch()
