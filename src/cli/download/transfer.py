"""One file over HTTP: resumed after a cut, retried with patience, never trusted for its length.

A part lies beside its validator (`.etag`). The next attempt asks for the rest with `Range` and
`If-Range`; a server whose file has changed answers with the whole, and the part is begun again. The
token is an `Authorization` header, which httpx takes off when a redirect leaves the host.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cli.download.source import RemoteFile
from cli.failures import UNREACHABLE, Failure

LONGEST_WAIT_S = 60.0
Moved = Callable[[int], None]  # bytes of the file that are here now


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Attempts without a new byte before giving up, and the first wait, doubled each time."""

    attempts: int = 6
    first_wait_s: float = 1.0


class Interruption(Exception):
    """Worth another attempt. `wait_s` is what the server asked for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def open_client() -> httpx.Client:
    return httpx.Client(follow_redirects=True, max_redirects=5, timeout=httpx.Timeout(30.0))


def fetch(
    client: httpx.Client,
    file: RemoteFile,
    part: Path,
    *,
    token: str | None,
    remedy: str,
    moved: Moved,
    patience: Patience,
    stop: threading.Event,
) -> None:
    """Bring `part` to the whole file. Raises `Failure`; what has arrived stays for next time."""
    failures, most = 0, _size(part)
    while True:
        try:
            return _attempt(client, file, part, token=token, remedy=remedy, moved=moved, stop=stop)
        except (Interruption, httpx.TransportError) as error:
            # A server that cuts every few bytes still gets us there; only standing still counts.
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures >= patience.attempts:
                host = urlsplit(file.url).hostname
                why = str(error) if isinstance(error, Interruption) else type(error).__name__
                raise Failure(
                    f"{file.path}: {host}: {why}",
                    hint="run the same command again; it goes on where this one stopped",
                    exit_code=UNREACHABLE,
                ) from None
            asked = error.wait_s if isinstance(error, Interruption) else None
            if stop.wait(_wait_s(patience, failures, asked)):
                raise Failure(f"{file.path}: stopped") from None


def _attempt(
    client: httpx.Client,
    file: RemoteFile,
    part: Path,
    *,
    token: str | None,
    remedy: str,
    moved: Moved,
    stop: threading.Event,
) -> None:
    validator = part.with_suffix(".etag")
    have = _size(part) if validator.exists() else 0
    if have and have == file.size_bytes:
        return  # whole, and killed before it was verified
    headers = {"Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    with client.stream("GET", file.url, headers=headers) as answer:
        if answer.status_code == 416:
            validator.unlink(missing_ok=True)  # so that the next attempt begins anew
        _accept(answer, file, remedy)
        if answer.status_code != 206 or not _continues(answer, have):
            have = 0
            validator.unlink(missing_ok=True)
            if answer.status_code == 206:  # of another place than asked for
                raise Interruption("answered with a range that nobody asked for")
        etag = answer.headers.get("etag", "")
        with part.open("ab" if have else "wb") as stream:
            if etag and not etag.startswith("W/"):  # If-Range takes strong ones only
                validator.write_text(etag)
            for (
                chunk
            ) in answer.iter_raw():  # as it comes: a chunk size would lose what a cut leaves over
                if stop.is_set():
                    raise Failure(f"{file.path}: stopped")
                have += len(chunk)
                if file.size_bytes is not None and have > file.size_bytes:
                    raise Failure(f"{file.path}: longer than the {file.size_bytes} bytes announced")
                stream.write(chunk)
                moved(have)
    if file.size_bytes is not None and have < file.size_bytes:
        raise Interruption(f"ended after {have} of {file.size_bytes} bytes")


def _accept(answer: httpx.Response, file: RemoteFile, remedy: str) -> None:
    status, host = answer.status_code, answer.url.host
    if status in (401, 403):
        raise Failure(f"{file.path}: {host} refused it ({status})", hint=remedy)
    if status == 416:
        raise Interruption("says that the file is shorter than the part that is here")
    if status in (408, 425, 429) or status >= 500:
        raise Interruption(f"answered {status}", _retry_after_s(answer))
    if status not in (200, 206):
        raise Failure(f"{file.path}: {host} answered {status}")
    if answer.headers.get("content-type", "").startswith("text/html"):
        raise Failure(f"{file.path}: {host} sent a web page, most likely a sign-in", hint=remedy)


def _continues(answer: httpx.Response, have: int) -> bool:
    return bool(have) and answer.headers.get("content-range", "").startswith(f"bytes {have}-")


def _retry_after_s(answer: httpx.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return None


def _wait_s(patience: Patience, failures: int, asked_s: float | None) -> float:
    if asked_s is not None:
        return min(max(asked_s, 0.0), LONGEST_WAIT_S)
    longest = patience.first_wait_s * 2.0 ** (failures - 1)
    spread: float = random.uniform(0.5, 1)  # noqa: S311  no secret
    return min(longest, LONGEST_WAIT_S) * spread


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
