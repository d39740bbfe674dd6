"""Read the response headers of a host that is not trusted."""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import httpx

from cli.download.source import RemoteFile

# A date tells two versions of a file apart only if they were not written within the same second
# (RFC 9110, 8.8.2.2).
DATE_IS_STRONG_AFTER_S = 60
_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")
_A_MOMENT_S = 1e9  # longer than any pause


def continues_part(answer: httpx.Response, file: RemoteFile, headers: dict[str, str]) -> bool:
    """Whether the answer is the rest of our part: from the requested byte, of the same file."""
    if answer.status_code != 206 or "Range" not in headers:
        return False
    start = headers["Range"].removeprefix("bytes=").removesuffix("-")
    place, _, total = answer.headers.get("content-range", "").partition("/")
    etag = answer.headers.get("etag")
    return (
        place.startswith(f"bytes {start}-")
        and (total == "*" or not file.is_too_small(parse_number(total) or 0))
        and (etag is None or not headers["If-Range"].startswith('"') or etag == headers["If-Range"])
    )


def validator_of(answer: httpx.Response) -> str | None:
    """The value for `If-Range` later. Only a validator that changes with every byte is of use."""
    etag: str = answer.headers.get("etag", "")
    if etag.startswith('"') and etag.isascii():  # a header cannot carry other text
        return etag
    changed: str = answer.headers.get("last-modified", "")
    then, now = _timestamp(changed), _timestamp(answer.headers.get("date", ""))
    if then is not None and now is not None and now - then >= DATE_IS_STRONG_AFTER_S:
        return changed
    return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the host asks to wait, in seconds; None where it does not say.

    A date counts from the host's own one. Where there is no `Retry-After`, what hosts send that
    follow one of the IETF's drafts of `RateLimit`, or the headers that were usual before.
    """
    text = headers.get("retry-after", "")
    if not text:
        return _until_reset(headers)
    # A proxy on the way may have put a second one beside it.
    numbers = [_seconds(part.strip()) for part in text.split(",")]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers):
        return max(known)
    then = _timestamp(text)
    return None if then is None else then - _now(headers)


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit that is used up begins anew.

    `RateLimit: "api";r=0;t=120` says it, and so does `RateLimit: remaining=0, reset=120`.
    """
    limit = headers.get("ratelimit", "")
    for policy in limit.split(","):
        values = dict(each.strip().split("=", 1) for each in policy.split(";") if "=" in each)
        if values.get("r") == "0" and (seconds := _seconds(values.get("t", ""))) is not None:
            return seconds
    pairs = dict(each.strip().split("=", 1) for each in limit.split(",") if "=" in each)
    for remaining, reset in (
        (pairs.get("remaining"), pairs.get("reset")),
        (headers.get("ratelimit-remaining"), headers.get("ratelimit-reset")),
        (headers.get("x-ratelimit-remaining"), headers.get("x-ratelimit-reset")),
    ):
        if remaining == "0" and (seconds := _seconds(reset or "")) is not None:
            # Some say the moment, in seconds since 1970.
            return seconds - _now(headers) if seconds > _A_MOMENT_S else seconds
    return None


def _now(headers: Mapping[str, str]) -> float:
    """The host's own time, where it says it: its clock may differ from ours."""
    return _timestamp(headers.get("date", "")) or time.time()


def _seconds(text: str) -> float | None:
    return float(text) if _SECONDS.fullmatch(text) else None


def _timestamp(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def parse_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
