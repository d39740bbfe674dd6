"""The object store: it takes pictures and gives presigned URLs.

The `minio` client is synchronous, so each call runs in a worker thread, a few at a time, with
timeouts on its connections: a store that hangs costs a thread for seconds, never an event loop.
A write counts only when the store proves that it holds our bytes (`put`); everything that means
"away" becomes `InfraUnavailable`, so that callers never see the client's or urllib3's exceptions.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from anyio import CapacityLimiter
from minio import Minio
from minio.commonconfig import ComposeSource
from minio.datatypes import Object
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError

from shared.errors import InfraUnavailable
from shared.settings import Settings
from shared.threads import run_in_thread

T = TypeVar("T")

# Uploads of one worker rarely overlap; more threads than this only queue inside the store.
MAX_THREADS = 8
CONNECT_TIMEOUT_S = 3.0
# A 64 MiB image on a slow disk; a store that is silent for longer is not there.
READ_TIMEOUT_S = 30.0
# One part up to this size: a multipart ETag is not the MD5 of the object.
PUT_PART_BYTES = 1 << 30
# The least that S3 takes as a part of an object, except for the last one.
PART_BYTES = 5 << 20
READ_BYTES = 1 << 16
SHA256_META = "x-amz-meta-sha256"
CLOCK_DIFFERS = "RequestTimeTooSkewed"  # S3's own name for it
_REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    CLOCK_DIFFERS,
    "SignatureDoesNotMatch",
}
# Stores accept signatures up to 15 minutes old or early; some say AccessDenied to all others.
MAX_SKEW_S = 300.0
# What `probe_write` writes and deletes; no user of a job can have this name.
PROBE_KEY = "dreamforge/.ready"
_MISSING = {"NoSuchKey", "NoSuchObject", "NoSuchBucket"}


class StoreRefused(InfraUnavailable):
    """The store answered, and does not accept our credentials: waiting will not help."""


class ClockDiffers(InfraUnavailable):
    """The store refuses signatures of this host's time. The credentials may be right, and NTP may
    yet set the clock."""


class StoreMismatch(InfraUnavailable):
    """The store holds something else than what was sent. The caller may send it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """One object of a listing."""

    key: str
    modified_at: datetime | None


class ObjectStore:
    """One private bucket. Safe to use from many tasks of one event loop."""

    def __init__(
        self, *, client: Minio, public: Minio, bucket: str, pool: urllib3.PoolManager
    ) -> None:
        self._client = client
        self._public = public
        self._pool = pool
        self.bucket = bucket
        self._limiter: CapacityLimiter | None = None

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    async def ensure_bucket(self) -> None:
        """Make the bucket unless it is there. Buckets are private unless a policy opens them."""

        def work() -> None:
            if not self._client.bucket_exists(self.bucket):
                try:
                    self._client.make_bucket(self.bucket)
                except S3Error as error:  # the other service was faster
                    if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                        raise

        await self._run(work, needs="s3:ListBucket, and s3:CreateBucket where it is missing")

    async def put(self, key: str, data: bytes, *, content_type: str, sha256: str) -> None:
        """Store `data`, and return only when the store has proven that it holds these bytes.

        The proof: size and recorded sha256, and an ETag that is the MD5 of what we sent. A store
        that makes other ETags (KMS encryption) is asked for the object itself.
        Raises `StoreMismatch`, `InfraUnavailable`; `ValueError` when `sha256` is another data's.
        """
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{key}: the data does not have the sha256 that was given")
        await self._run(
            lambda: self._put_and_prove(key, data, content_type, sha256),
            needs="s3:PutObject and s3:GetObject",
        )

    async def compose(
        self, key: str, parts: Sequence[str], *, content_type: str, sha256: str
    ) -> None:
        """Put objects together into one, inside the store, and prove it by reading it.

        Each of `parts` but the last has at least `PART_BYTES`. They stay. Raises `StoreMismatch`,
        `InfraUnavailable`.
        """
        await self._run(
            lambda: self._compose_and_prove(key, parts, content_type, sha256),
            needs="s3:PutObject and s3:GetObject",
        )

    async def get(self, key: str, *, at_most_bytes: int | None = None) -> bytes | None:
        """The object's bytes, or the first so many of them; None when there is no such object."""
        return await self._run(lambda: self._read(key, at_most_bytes), needs="s3:GetObject")

    async def get_range(self, key: str, *, offset: int, size: int) -> bytes | None:
        """`size` bytes of the object from `offset` on, fewer at its end; None when it is missing.

        No connection stays open between two ranges, so a reader that is slow holds none.
        """
        return await self._run(
            lambda: self._read(key, size, offset=offset, length=size), needs="s3:GetObject"
        )

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        await self._run(
            lambda: self._client.remove_object(self.bucket, key), needs="s3:DeleteObject"
        )

    async def page(self, prefix: str, *, after: str, limit: int) -> list[StoredObject]:
        """Up to `limit` objects whose key begins with `prefix` and comes after `after`, by key."""

        def work() -> list[StoredObject]:
            objects = self._client.list_objects(
                self.bucket, prefix=prefix, recursive=True, start_after=after or None
            )
            return [
                StoredObject(key=each.object_name or "", modified_at=each.last_modified)
                for each in islice(objects, limit)
            ]

        return await self._run(work, needs="s3:ListBucket")

    async def ping(self) -> None:
        """Raise `InfraUnavailable` unless the store answers and our bucket is there."""
        if not await self._run(
            lambda: self._client.bucket_exists(self.bucket), needs="s3:ListBucket"
        ):
            raise InfraUnavailable(f"the object store has no bucket {self.bucket!r}")

    async def probe_write(self) -> None:
        """Raise `InfraUnavailable` unless an object can be written: a full store still answers."""

        def work() -> None:
            self._client.put_object(self.bucket, PROBE_KEY, io.BytesIO(b"ready"), len(b"ready"))
            self._client.remove_object(self.bucket, PROBE_KEY)

        await self._run(work, needs="s3:PutObject and s3:DeleteObject")

    def presign(self, key: str, ttl_s: float) -> str:
        """A URL that reads the object until `ttl_s` from now. Signed locally, without a request."""
        return self._public.presigned_get_object(self.bucket, key, expires=timedelta(seconds=ttl_s))

    def _put_and_prove(self, key: str, data: bytes, content_type: str, sha256: str) -> None:
        self._client.put_object(
            self.bucket,
            key,
            io.BytesIO(data),
            len(data),
            content_type=content_type,
            metadata={SHA256_META: sha256},
            part_size=PUT_PART_BYTES,
        )
        stored = _unless_missing(lambda: self._client.stat_object(self.bucket, key))
        if stored is None or (stored.size, _recorded_sha256(stored)) != (len(data), sha256):
            raise StoreMismatch(f"the object store does not hold {key} as it was sent")
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if (stored.etag or "").strip('"') != md5 and self._read(key) != data:
            raise StoreMismatch(f"the object store returned other bytes for {key}")

    def _compose_and_prove(
        self, key: str, parts: Sequence[str], content_type: str, sha256: str
    ) -> None:
        self._client.compose_object(
            self.bucket,
            key,
            [ComposeSource(self.bucket, part) for part in parts],
            metadata={"Content-Type": content_type, SHA256_META: sha256},
        )
        response, found = self._client.get_object(self.bucket, key), hashlib.sha256()
        try:
            for data in response.stream(READ_BYTES):
                found.update(data)
        finally:
            response.close()
            response.release_conn()
        if found.hexdigest() != sha256:
            raise StoreMismatch(f"the object store returned other bytes for {key}")

    def _read(
        self, key: str, at_most_bytes: int | None = None, *, offset: int = 0, length: int = 0
    ) -> bytes | None:
        response = _unless_missing(  # a length of 0 is all of it
            lambda: self._client.get_object(self.bucket, key, offset=offset, length=length)
        )
        if response is None:
            return None
        try:
            return bytes(response.read(at_most_bytes))
        finally:
            response.close()
            response.release_conn()

    async def _run(self, work: Callable[[], T], *, needs: str) -> T:
        """Run `work` in a thread; `needs` are the permissions without which it is refused."""
        if self._limiter is None:  # needs a running event loop, so it is not made in __init__
            self._limiter = CapacityLimiter(MAX_THREADS)
        try:
            return await run_in_thread(work, limiter=self._limiter)
        except S3Error as error:
            if error.code in _REFUSED:
                refuses = "the object store refuses us"
                if skew := _skew(error):
                    raise ClockDiffers(f"{refuses}: {CLOCK_DIFFERS}", reason=skew) from error
                raise StoreRefused(
                    f"{refuses}: {error.code}", reason=f"this needs {needs}"
                ) from error
            raise InfraUnavailable(
                f"the object store answered {error.code}", reason=error.message or ""
            ) from error
        except (HTTPError, InvalidResponseError, ServerError, OSError) as error:
            raise InfraUnavailable(
                "the object store cannot be reached", reason=_innermost(error)
            ) from error


def _skew(error: S3Error) -> str | None:
    """What is wrong with the clocks, if the store's and ours differ by more than it accepts."""
    try:
        theirs = parsedate_to_datetime(error.response.headers.get("Date", ""))
    except (ValueError, OverflowError):
        return None
    if theirs.tzinfo is None:  # written with -0000: UTC, of a host that knows no zone
        theirs = theirs.replace(tzinfo=UTC)
    ahead_s = (datetime.now(UTC) - theirs).total_seconds()
    if abs(ahead_s) < MAX_SKEW_S and error.code != CLOCK_DIFFERS:
        return None
    which = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"the clock of this host is {abs(ahead_s):.0f} s {which} the store's; "
        "let NTP set the wrong one of the two"
    )


def _innermost(error: Exception) -> str:
    """What was wrong with the connection itself, without the address that was asked for."""
    while isinstance(reason := getattr(error, "reason", None), Exception):
        error = reason
    return str(error).rpartition(": ")[2] or type(error).__name__


def _unless_missing(ask: Callable[[], T]) -> T | None:
    """The store's answer; None when there is no such object."""
    try:
        return ask()
    except S3Error as error:
        if error.code in _MISSING:
            return None
        raise


def _recorded_sha256(stored: Object) -> str | None:
    metadata = {name.lower(): value for name, value in (stored.metadata or {}).items()}
    return metadata.get(SHA256_META)


def open_store(settings: Settings) -> ObjectStore:
    """The store of these settings. Opens no connection yet."""
    pool = urllib3.PoolManager(
        maxsize=MAX_THREADS,
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        # One more try, for the kept-alive connection that a restarted store closed on us.
        # Patience beyond that is the caller's: each has its own deadline.
        retries=urllib3.Retry(total=1, connect=0, backoff_factor=0),
    )
    public = settings.s3_public_endpoint or settings.s3_endpoint
    return ObjectStore(
        client=_client(settings, settings.s3_endpoint, pool),
        public=_client(settings, public, pool),
        bucket=settings.s3_bucket,
        pool=pool,
    )


def _client(settings: Settings, endpoint: str, pool: urllib3.PoolManager) -> Minio:
    address = urlsplit(endpoint)
    return Minio(
        address.netloc,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        secure=address.scheme == "https",
        region=settings.s3_region,  # without it signing asks the store for the bucket's region
        http_client=pool,
    )
