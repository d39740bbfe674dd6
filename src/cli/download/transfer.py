"""One file over HTTP: resumed after a cut, retried, and held to the announced length.

A part lies beside its validator (`.validator`: an ETag, or a date). The next attempt asks for the
rest with `Range` and `If-Range`. A server whose file has changed answers with the whole file, and
the part starts again. An answer that continues another file than ours is not appended.

A token goes to its own origin only. A hook checks every request, those of redirects included, so
no answer of a server can send the token elsewhere.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import httpx

from cli.client.proxies import (
    is_refused_certificate,
    open_client,
    reason,
    refused_certificate,
)
from cli.download.http_headers import continues_part, parse_number, retry_after_s, validator_of
from cli.download.retry import DEFAULT_POLICY, RetryPolicy, TransientError, with_retries
from cli.download.source import Credential, RemoteFile, parse_origin
from cli.errors import Failure
from cli.files import named
from cli.models.store import check_free_space

CHECK_DISK_EVERY_BYTES = 64 << 20
MAX_JSON_BYTES = 16 << 20  # the longest list of files seen has 1 MB
_PAGES = (b"<!doctype html", b"<html")

OnBytes = Callable[[int], None]  # bytes of the file that are here now

# httpx logs whole addresses at INFO, and the address of a file may hold a key.
logging.getLogger("httpx").setLevel(logging.WARNING)


class SignInRequired(Failure):
    """The host wants a sign-in, or another one."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where the bytes of a file go, and a callback that gets their number as they come."""

    file: RemoteFile
    path: Path
    on_bytes: OnBytes

    @property
    def validator(self) -> Path:
        return self.path.with_suffix(".validator")

    def bytes_here(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def bytes_to_keep(self) -> int:
        """How much of it the next attempt can continue: without a validator, nothing."""
        return self.bytes_here() if self.validator.exists() else 0


class Transfer:
    """Requests with one credential. `close` it."""

    def __init__(
        self,
        *,
        credential: Credential | None,
        remedy: str,
        policy: RetryPolicy = DEFAULT_POLICY,
        stop: threading.Event | None = None,
    ) -> None:
        self._credential = credential
        self._remedy = remedy
        self._policy = policy
        self._stop = stop or threading.Event()
        self._client = open_client(
            follow_redirects=True,
            max_redirects=5,
            timeout=httpx.Timeout(30.0),
            event_hooks={"request": [self._keep_token_home]},
        )

    def close(self) -> None:
        self._client.close()

    def fetch(self, part: Part) -> None:
        """Complete the part. Raises `Failure`; the bytes that have come stay."""
        file = part.file
        with_retries(
            lambda: self._request(file.url, partial(self._fetch_once, part)),
            what=f"{file.path}: {urlsplit(file.url).hostname}",
            policy=self._policy,
            stop=self._stop,
            bytes_here=part.bytes_here,
        )

    def get_json(self, url: str, what: str) -> Any:
        """The JSON at an address, None where there is nothing. Raises `Failure`."""
        return with_retries(
            lambda: self._request(url, partial(self._get_json_once, what)),
            what=f"{what}: {urlsplit(url).hostname}",
            policy=self._policy,
            stop=self._stop,
        )

    # Tokens ---------------------------------------------------------------------------------------

    def _request(self, url: str, send: Callable[[httpx.URL, dict[str, str]], Any]) -> Any:
        """Call `send` with the token in the form that the host takes; other hosts get no token."""
        credential = self._credential
        try:
            address = httpx.URL(url)
            if credential is None or parse_origin(url) != credential.origin:
                return send(address, {})
            try:
                return send(address, {"Authorization": f"Bearer {credential.token}"})
            except SignInRequired:
                if credential.parameter is None:
                    raise
                return send(address.copy_set_param(credential.parameter, credential.token), {})
        except httpx.TooManyRedirects:
            raise Failure(f"{address.host} sends us in a circle") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise Failure(f"{parse_origin(url)} leads to no address of a host: {error}") from None
        except httpx.DecodingError:
            raise TransientError("sent what cannot be unpacked") from None
        except httpx.TransportError as error:
            if is_refused_certificate(error):
                raise refused_certificate(address.host, error) from None
            raise TransientError(_why(error, url)) from None

    def _keep_token_home(self, request: httpx.Request) -> None:
        credential = self._credential
        if credential is None or parse_origin(str(request.url)) == credential.origin:
            return
        request.headers.pop("Authorization", None)
        if credential.token in unquote(str(request.url)):
            raise Failure(f"a redirect to {request.url.host} would have shown it the token")

    # One attempt ----------------------------------------------------------------------------------

    def _fetch_once(self, part: Part, url: httpx.URL, headers: dict[str, str]) -> None:
        file, have = part.file, part.bytes_to_keep()
        if have and have == file.size_bytes and not file.tolerance_bytes:
            return  # complete: the last command was killed before it verified the file
        headers["Accept-Encoding"] = "identity"
        if have:
            validator = part.validator.read_text(encoding="utf-8")
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        with self._client.stream("GET", url, headers=headers) as answer:
            self._accept(answer, file.path)
            encoding = _encoding(answer)
            if encoding or not continues_part(answer, file, headers):
                have = 0
                part.validator.unlink(missing_ok=True)
                if answer.status_code != 200:
                    raise TransientError("did not go on where we were")
            total = self._check_length(answer, part, have) if not encoding else file.size_bytes
            with named(part.path), part.path.open("ab" if have else "wb") as stream:
                if not encoding and (current := validator_of(answer)):
                    part.validator.write_text(current, encoding="utf-8")
                have = self._copy(answer, part, stream, have)
        if total is not None and have < total:
            raise TransientError(f"ended after {have} of {total} bytes")

    def _copy(self, answer: httpx.Response, part: Part, stream: BinaryIO, have: int) -> int:
        """Append the body to the part; return how many bytes it has then."""
        file, checked = part.file, have
        # No chunk size: with one, httpx drops the bytes of the last chunk when the connection ends.
        for chunk in answer.iter_bytes() if _encoding(answer) else answer.iter_raw():
            if self._stop.is_set():
                raise Failure(f"{file.path}: stopped")
            if not have and _is_page(file, chunk):
                raise self._sign_in_required(f"{file.path}: {answer.url.host} sent a web page")
            have += len(chunk)
            if file.is_too_large(have):
                raise _too_long(file)
            stream.write(chunk)
            part.on_bytes(have)
            if have - checked > CHECK_DISK_EVERY_BYTES:
                checked = have
                check_free_space(part.path, 0)
        return have

    def _get_json_once(self, what: str, url: httpx.URL, headers: dict[str, str]) -> Any:
        with self._client.stream("GET", url, headers=headers) as answer:
            if answer.status_code == 404:
                return None
            self._accept(answer, what)
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_JSON_BYTES:
                    raise Failure(f"{what}: {answer.url.host} answered more than we read")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            _encoding(answer)  # what nobody can unpack here is no sign-in
            raise self._sign_in_required(
                f"{what}: {answer.url.host} did not answer in JSON"
            ) from None

    def _check_length(self, answer: httpx.Response, part: Part, have: int) -> int | None:
        """How long the file will be. Another length than the source named is another file."""
        file = part.file
        length = parse_number(answer.headers.get("content-length", ""))
        total = None if length is None else have + length
        if answer.status_code == 206:  # a cache may send less than all that is missing
            total = (
                parse_number(answer.headers.get("content-range", "").rpartition("/")[2]) or total
            )
        if total is None:
            return None if file.tolerance_bytes else file.size_bytes
        if file.is_too_large(total):
            raise _too_long(file)
        if file.is_too_small(total):
            raise self._sign_in_required(
                f"{file.path}: {answer.url.host} sent {total} bytes instead of {file.size_bytes}"
            )
        check_free_space(part.path, total - have)
        return total

    def _accept(self, answer: httpx.Response, what: str) -> None:
        status, host = answer.status_code, answer.url.host
        if status in (401, 403):
            raise self._sign_in_required(f"{what}: {host} refused it ({status})")
        if status == 416:
            return  # the part is longer than the file: it starts again
        if status in (408, 425, 429) or status >= 500:
            raise TransientError(f"answered {status}", retry_after_s(answer.headers))
        if status not in (200, 206):
            raise Failure(f"{what}: {host} answered {status}")
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise self._sign_in_required(f"{what}: {host} sent a web page")

    def _sign_in_required(self, why: str) -> SignInRequired:
        return SignInRequired(f"{why}; most likely it wants a sign-in", hint=self._remedy)


def _encoding(answer: httpx.Response) -> str:
    """How a host has compressed its answer, which was not asked for; empty for not at all.

    Raises `Failure` for a way that cannot be undone here.
    """
    encoding: str = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise Failure(f"{answer.url.host} sends it compressed ({encoding[:40]}), unasked")
    return "" if encoding == "identity" else encoding


def _why(error: httpx.TransportError, url: str) -> str:
    match error:
        case httpx.TimeoutException():
            return "did not answer in time"
        case httpx.ConnectError() | httpx.ProxyError():
            return f"cannot be reached{reason(error, url)}"
        case _:
            return "the connection was cut"


def _too_long(file: RemoteFile) -> Failure:
    return Failure(f"{file.path}: longer than the {file.size_bytes} bytes announced")


def _is_page(file: RemoteFile, start: bytes) -> bool:
    """Whether the body begins like a web page, whatever its content type says."""
    return not file.path.endswith(".md") and start.lstrip()[:16].lower().startswith(_PAGES)
