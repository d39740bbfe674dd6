"""The public HTTP API for commands: `dreamforge_client`, with errors that end a command."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import httpx

import dreamforge_client
from cli.client.proxies import open_client, proxy_for
from cli.errors import Failure, Refusal, Unreachable
from cli.files import named
from cli.terminal.output import print_note
from dreamforge_client import answers, exchange
from shared.addresses import check_http

Event = dreamforge_client.Event
T = TypeVar("T")


class Client:
    """One API. Raises Unreachable, Refusal (an error envelope) or Failure (no API of ours)."""

    def __init__(self, api_base: str, api_key: str | None = None) -> None:
        self.api_base = api_base
        try:
            options = exchange.options(api_base, api_key)
        except ValueError:
            raise Failure(
                "DF_API_KEY is no key: it has characters that no header can carry"
            ) from None
        try:
            check_http(api_base, "http://host:port, with https:// or a path where it has")
        except ValueError as error:
            raise Failure(f"DF_API_BASE, or DF_API_HOST and DF_API_PORT: {error}") from None
        self._api = dreamforge_client.Client(
            api_base, http=open_client(**options), on_retry=_print_retry
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._api.close()

    @property
    def http(self) -> httpx.Client:
        return self._api.http

    def get(self, shape: type[T], path: str, **params: Any) -> T:
        """The answer, proven to be of `shape`, which is one of `answers`."""
        with _as_failures():
            return self._api.get_as(shape, path, **params)

    def job(self, job_id: str, **params: Any) -> answers.Job:
        return self.get(answers.Job, exchange.job_path(job_id), **params)

    def progress(self, job_id: str) -> float:
        return self.get(answers.JobProgress, exchange.job_path(job_id, "progress"))["progress"]

    def artifacts(self, job_id: str) -> answers.Artifacts:
        return self.get(answers.Artifacts, exchange.job_path(job_id, "artifacts"))

    def cancel(self, job_id: str) -> None:
        with _as_failures():
            self._api.post(exchange.job_path(job_id, "cancel"))

    def models(self) -> answers.Models:
        return self.get(answers.Models, "/v1/models")

    def create(self, prompt: str, key: str | None, fields: Mapping[str, Any]) -> answers.Job:
        """Create a job; the request is sent again, within bounds, when its answer is lost."""
        with _as_failures():
            job = self._api.create(prompt, key=key, **fields)
            return cast("answers.Job", job.data)  # it is made of one

    def usage(self, **filters: str | None) -> list[answers.Usage]:
        """The rows of what was used, of every page."""
        with _as_failures():
            return self._api.usage(**filters)

    def upload(self, file: Path) -> str:
        """Send a picture; the id of its input. The same bytes are one input."""
        with _as_failures(), named(file):
            return self._api.upload(file)

    def delete(self, job_id: str) -> None:
        with _as_failures():
            self._api.delete(exchange.job_path(job_id))

    def logs(self, job_id: str, **params: Any) -> Iterator[answers.LogLine]:
        """The lines of a job's log, as they come."""
        path = exchange.job_path(job_id, "logs")
        with _as_failures():
            for line in self._api.lines(path, **params):
                entry = exchange.parsed(line, self.api_base, f"GET {path}")
                yield exchange.typed_answer(answers.LogLine, entry, self.api_base, f"GET {path}")

    def stream(self, job_id: str, after: int = 0, *, previews: bool = False) -> Iterator[Event]:
        """Every event after number `after` until the job has ended, whatever breaks meanwhile.

        Without `previews` none are made for us.
        """
        with _as_failures():
            yield from self._api.stream(job_id, after, previews=previews)

    def save(self, url: str, path: Path) -> None:
        """Download a presigned URL to `path`, which appears when it is complete."""
        with _as_failures(), named(path):
            self._api.download(url, path)

    def model(self, reference: str) -> answers.Model:
        """One model, by id, name (its newest version) or name@version."""
        try:
            return self.get(answers.Model, f"/v1/models/{exchange.path_part(reference)}")
        except Refusal as refusal:
            if refusal.code != "not_found":
                raise
            hint = "`dreamforge model list` shows them"
            raise Failure(f"there is no model {reference}", hint=hint) from None


@contextmanager
def _as_failures() -> Iterator[None]:
    """Turn the client's errors into those that end a command."""
    try:
        yield
    except dreamforge_client.ClientError as error:
        raise _failure(error) from error
    except (UnicodeError, httpx.InvalidURL, exchange.NoHeader):  # of a request, before it is sent
        raise Failure("a text that was given has characters that no request can carry") from None


def _failure(error: dreamforge_client.ClientError) -> Failure:
    match error:
        case dreamforge_client.Unreachable():
            return Unreachable(error.address, _why(error))
        case dreamforge_client.Refused():
            return Refusal(error.envelope, retry_after_s=error.retry_after_s)
        case _:
            return Failure(str(error))


def _why(error: dreamforge_client.Unreachable) -> str:
    """The reason, and the variable whose proxy it may be the reason of."""
    on_this_host = urlsplit(error.address).hostname in exchange.LOOPBACK
    proxy = None if on_this_host else proxy_for(error.address)
    return error.why if proxy is None else f"{error.why} (through {proxy})"


def _print_retry(error: dreamforge_client.ClientError, pause_s: float) -> None:
    message = _failure(error).message.splitlines()[0]
    print_note(f"{message}; trying again in {pause_s:g} s")
