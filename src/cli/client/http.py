"""The public HTTP API, as any other application would use it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from cli.client.proxies import open_client
from cli.errors import Failure, Refusal, Unreachable
from cli.files import named
from shared.addresses import check_http

_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
_CHUNK_BYTES = 1 << 16
# What a proxy answers while the API behind it starts again; the body is anything.
_PROXY_STATUSES = {502, 503, 504}
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Client:
    """One API. Raises Unreachable, Refusal (an error envelope) or Failure (no API of ours)."""

    def __init__(self, api_base: str, api_key: str | None = None) -> None:
        self.api_base = api_base
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise Failure("DF_API_KEY is no key: it has characters that no header can carry")
        try:
            parts = check_http(api_base, "http://host:port, with https:// or a path where it has")
        except ValueError as error:
            raise Failure(f"DF_API_BASE, or DF_API_HOST and DF_API_PORT: {error}") from None
        # Requests to our own host do not go through a proxy that is set for other hosts.
        trust_env = parts.hostname not in _LOOPBACK
        self.http = open_client(
            base_url=api_base, headers=headers, timeout=_TIMEOUT, trust_env=trust_env
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._json(self.http.build_request("GET", path, params=_without_none(params)))

    def post(self, path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Any:
        headers = {"Idempotency-Key": key} if key else {}
        return self._json(self.http.build_request("POST", path, json=body, headers=headers))

    def upload(self, path: str, file: Path) -> Any:
        """Send a file as the field `file` of a form."""
        with named(file), file.open("rb") as opened:
            return self._json(
                self.http.build_request("POST", path, files={"file": (file.name, opened)})
            )

    def delete(self, path: str) -> None:
        """For an answer without a body."""
        with self.send(self.http.build_request("DELETE", path)):
            pass

    def lines(self, path: str, **params: Any) -> Iterator[str]:
        """The lines of an NDJSON answer, as they come."""
        request = self.http.build_request("GET", path, params=_without_none(params))
        with self.send(request, stream=True) as answer:
            yield from answer.iter_lines()

    def save(self, url: str, path: Path) -> None:
        """Download a presigned URL to `path`, which appears when it is complete."""
        draft = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open_client(timeout=_TIMEOUT, trust_env=self.http.trust_env) as plain,
            _as_unreachable(_origin(url)),
            plain.stream("GET", url) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise Failure(
                    f"the store at {_origin(url)} answered {answer.status_code} for {path.name}"
                )
            with named(draft), draft.open("wb") as file:
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)
        draft.replace(path)

    def model(self, reference: str) -> Any:
        """One model, by id, name (its newest version) or name@version."""
        try:
            return self.get(f"/v1/models/{quote(reference, safe='@')}")
        except Refusal as refusal:
            if refusal.code != "not_found":
                raise
            hint = "`dreamforge model list` shows them"
            raise Failure(f"there is no model {reference}", hint=hint) from None

    def _json(self, request: httpx.Request) -> Any:
        with self.send(request) as answer:
            try:
                return answer.json()
            except ValueError:
                raise Failure(f"{self.api_base} does not answer as Dream Forge's API") from None

    @contextmanager
    def send(self, request: httpx.Request, *, stream: bool = False) -> Iterator[httpx.Response]:
        """The answer to one request; `stream` leaves its body to be read."""
        with _as_unreachable(self.api_base):
            answer = self.http.send(request, stream=stream)
            try:
                self._raise_for_envelope(answer)
                yield answer
            finally:
                answer.close()

    def _raise_for_envelope(self, answer: httpx.Response) -> None:
        """Turn an error answer into Refusal, or into another Failure where it has no envelope."""
        if answer.is_success:
            return
        answer.read()
        try:
            envelope = answer.json()
        except ValueError:
            envelope = None
        if isinstance(envelope, dict) and "code" in envelope:
            raise Refusal(envelope, retry_after_s=_seconds(answer.headers.get("Retry-After", "")))
        if answer.status_code in _PROXY_STATUSES:
            why = f"a proxy answered {answer.status_code} in its place"
            raise Unreachable(self.api_base, why)
        raise Failure(f"{self.api_base} answered {answer.status_code}: is it Dream Forge's API?")


def _seconds(text: str) -> float:
    """`Retry-After` in its form of a number, which is ours; 0 for another or none."""
    return float(text) if text.isascii() and text.isdecimal() else 0.0


@contextmanager
def _as_unreachable(address: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        raise Unreachable(address, str(error) or type(error).__name__) from error


def _origin(url: str) -> str:
    # Never the whole of a presigned URL: its query is a key to the picture.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _without_none(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
