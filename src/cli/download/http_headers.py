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
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d+)")


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

    `RateLimit` is what hosts send that follow the IETF's draft of it: `"api";r=0;t=120`.
    """
    text = headers.get("retry-after", "")
    if not text and (limit := _RATE_LIMIT.search(headers.get("ratelimit", ""))):
        text = limit[1]
    if (seconds := parse_number(text)) is not None:
        return float(seconds)
    then = _timestamp(text)
    return None if then is None else then - time.time()


def _timestamp(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def parse_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
