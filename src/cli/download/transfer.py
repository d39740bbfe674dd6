"""One file over HTTP: resumed after a cut, retried with patience, never trusted for its length.

A part lies beside its validator (`.validator`: an ETag, or a date). The next attempt asks for the
rest with `Range` and `If-Range`; a server whose file has changed answers with the whole, and the
part is begun again. An answer that continues another file than ours is not appended.

A token goes to its own origin only. A hook looks at every request that leaves, those of redirects
included, so no answer of a server can send it elsewhere.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx

from cli.download.http_headers import continues_part, parse_number, retry_after_s, validator_of
from cli.download.retry import RetryPolicy, TransientError, with_retries
from cli.download.source import Credential, RemoteFile, parse_origin
from cli.errors import Failure
from cli.models.store import check_free_space

LOOK_AT_DISK_BYTES = 64 << 20
MAX_ANSWER_BYTES = 16 << 20  # of a question about a model; the longest list seen has 1 MB
_PAGES = (b"<!doctype html", b"<html")

OnBytes = Callable[[int], None]  # bytes of the file that are here now

# It writes whole addresses at INFO, and those of files may hold a key.
logging.getLogger("httpx").setLevel(logging.WARNING)


class SignInRequired(Failure):
    """The host wants a sign-in, or another one."""


class Transfer:
    """Requests with one credential. A context manager."""

    def __init__(
        self,
        *,
        credential: Credential | None,
        remedy: str,
        policy: RetryPolicy,
        stop: threading.Event,
    ) -> None:
        self._credential = credential
        self._remedy = remedy
        self._policy = policy
        self._stop = stop
        self._client = httpx.Client(
            follow_redirects=True,
            max_redirects=5,
            timeout=httpx.Timeout(30.0),
            event_hooks={"request": [self._guard]},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def fetch(self, file: RemoteFile, part: Path, on_bytes: OnBytes) -> None:
        """Bring `part` to the whole file. Raises `Failure`; what has arrived stays there."""
        with_retries(
            lambda: self._signed(file.url, partial(self._attempt, file, part, on_bytes)),
            what=f"{file.path}: {urlsplit(file.url).hostname}",
            policy=self._policy,
            stop=self._stop,
            here=lambda: _size(part),
        )

    def get_json(self, url: str, what: str) -> Any:
        """The JSON at an address, None where there is nothing. Raises `Failure`."""
        return with_retries(
            lambda: self._signed(url, partial(self._answer, what)),
            what=f"{what}: {urlsplit(url).hostname}",
            policy=self._policy,
            stop=self._stop,
        )

    # Tokens ---------------------------------------------------------------------------------------

    def _signed(self, url: str, request: Callable[[httpx.URL, dict[str, str]], Any]) -> Any:
        """Make a request with our token as the host takes it; other hosts are not shown any."""
        credential = self._credential
        try:
            known = httpx.URL(url)
            if credential is None or parse_origin(url) != credential.origin:
                return request(known, {})
            try:
                return request(known, {"Authorization": f"Bearer {credential.token}"})
            except SignInRequired:
                if credential.parameter is None:
                    raise
                return request(known.copy_set_param(credential.parameter, credential.token), {})
        except httpx.TooManyRedirects:
            raise Failure(f"{known.host} sends us in a circle") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Failure(f"{parse_origin(url)} leads to no address of a host: {error}") from None
        except httpx.TransportError as error:
            raise TransientError(_why(error)) from None

    def _guard(self, request: httpx.Request) -> None:
        credential = self._credential
        if credential is None or parse_origin(str(request.url)) == credential.origin:
            return
        request.headers.pop("Authorization", None)
        if credential.token in unquote(str(request.url)):
            raise Failure(f"a redirect to {request.url.host} would have shown it the token")

    # One attempt ----------------------------------------------------------------------------------

    def _attempt(
        self,
        file: RemoteFile,
        part: Path,
        on_bytes: OnBytes,
        url: httpx.URL,
        headers: dict[str, str],
    ) -> None:
        validator = part.with_suffix(".validator")
        have = _size(part) if validator.exists() else 0
        if have and have == file.size_bytes and not file.tolerance_bytes:
            return  # whole, and killed before it was verified
        headers["Accept-Encoding"] = "identity"
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
        with self._client.stream("GET", url, headers=headers) as answer:
            self._accept(answer, file.path)
            if not continues_part(answer, file, headers):
                have = 0
                validator.unlink(missing_ok=True)
                if answer.status_code != 200:
                    raise TransientError("did not go on where we were")
            total = self._announced(answer, file, part, have)
            with part.open("ab" if have else "wb") as stream:
                if known := validator_of(answer):
                    validator.write_text(known)
                have = self._copy(answer, file, stream, have, on_bytes)
        if total is not None and have < total:
            raise TransientError(f"ended after {have} of {total} bytes")

    def _copy(
        self, answer: httpx.Response, file: RemoteFile, stream: Any, have: int, on_bytes: OnBytes
    ) -> int:
        looked = have
        for chunk in answer.iter_raw():  # as it comes: a chunk size loses what a cut leaves over
            if self._stop.is_set():
                raise Failure(f"{file.path}: stopped")
            if not have and _is_page(file, chunk):
                raise self._refused(f"{file.path}: {answer.url.host} sent a web page")
            have += len(chunk)
            if file.is_too_large(have):
                raise _longer(file)
            stream.write(chunk)
            on_bytes(have)
            if have - looked > LOOK_AT_DISK_BYTES:
                looked = have
                check_free_space(Path(stream.name), 0)
        return have

    def _answer(self, what: str, url: httpx.URL, headers: dict[str, str]) -> Any:
        with self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 404:
                return None
            self._accept(answer, what)
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise Failure(f"{what}: {answer.url.host} answered more than we read")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise self._refused(f"{what}: {answer.url.host} did not answer in JSON") from None

    def _announced(
        self, answer: httpx.Response, file: RemoteFile, part: Path, have: int
    ) -> int | None:
        """How long the file will be. Another length than the source named is another file."""
        length = parse_number(answer.headers.get("content-length", ""))
        total = None if length is None else have + length
        if answer.status_code == 206:  # which may be less than all that is left
            total = (
                parse_number(answer.headers.get("content-range", "").rpartition("/")[2]) or total
            )
        if total is None:
            return None if file.tolerance_bytes else file.size_bytes
        if file.is_too_large(total):
            raise _longer(file)
        if file.is_too_small(total):
            raise self._refused(
                f"{file.path}: {answer.url.host} sent {total} bytes instead of {file.size_bytes}"
            )
        check_free_space(part, total - have)
        return total

    def _accept(self, answer: httpx.Response, what: str) -> None:
        status, host = answer.status_code, answer.url.host
        if status in (401, 403):
            raise self._refused(f"{what}: {host} refused it ({status})")
        if status == 416:
            return  # the part is longer than the file: begun again
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(f"answered {status}", retry_after_s(answer))
        if status not in (200, 206):
            raise Failure(f"{what}: {host} answered {status}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise self._refused(f"{what}: {host} sent a web page")

    def _refused(self, why: str) -> SignInRequired:
        return SignInRequired(f"{why}; most likely it wants a sign-in", hint=self._remedy)


def _why(error: httpx.TransportError) -> str:
    match error:
        case httpx.TimeoutException():
            return "did not answer in time"
        case httpx.ConnectError():
            return "cannot be reached"
        case _:
            return "the connection was cut"


def _longer(file: RemoteFile) -> Failure:
    return Failure(f"{file.path}: longer than the {file.size_bytes} bytes announced")


def _is_page(file: RemoteFile, start: bytes) -> bool:
    """Whether a body that does not call itself one begins like a web page."""
    return not file.path.endswith(".md") and start.lstrip()[:16].lower().startswith(_PAGES)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
