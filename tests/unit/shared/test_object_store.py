"""When a write counts: what the store must say before `put` returns."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import S3Error
from pydantic import SecretStr
from urllib3 import HTTPHeaderDict

from shared.errors import InfraUnavailable
from shared.object_store import ClockDiffers, ObjectStore, StoreMismatch, StoreRefused, open_store
from shared.settings import Settings

DATA = b"picture"
SHA256 = hashlib.sha256(DATA).hexdigest()
MD5 = hashlib.md5(DATA).hexdigest()
FAR = "1 Jan 2026 00:00:00 +9999999999999999999"  # a zone that no datetime can have


class LyingClient:
    """A `minio` client that takes everything and answers what the test says."""

    def __init__(self, *, etag: str = MD5, size: int = len(DATA), sha256: str = SHA256) -> None:
        self.etag, self.size, self.sha256 = etag, size, sha256
        self.content = DATA
        self.reads = 0

    def put_object(self, *args: Any, **kwargs: Any) -> None:
        return None

    def stat_object(self, bucket: str, key: str) -> Object:
        metadata = HTTPHeaderDict({"x-amz-meta-sha256": self.sha256})
        return Object(bucket, key, etag=f'"{self.etag}"', size=self.size, metadata=metadata)

    def get_object(self, bucket: str, key: str, **_: int) -> urllib3.HTTPResponse:
        self.reads += 1
        return urllib3.HTTPResponse(io.BytesIO(self.content), preload_content=False)


def put(client: Any, sha256: str = SHA256) -> None:
    store = ObjectStore(client=client, public=client, bucket="b", pool=urllib3.PoolManager())

    async def main() -> None:
        await store.put("k", DATA, content_type="image/png", sha256=sha256)

    anyio.run(main)


def test_a_matching_etag_is_proof_without_reading_back() -> None:
    client = LyingClient()
    put(client)
    assert client.reads == 0


@pytest.mark.parametrize("wrong", [{"size": 6}, {"sha256": "0" * 64}])
def test_another_size_or_hash_is_no_success(wrong: dict[str, Any]) -> None:
    with pytest.raises(StoreMismatch):
        put(LyingClient(**wrong))


def test_a_foreign_kind_of_etag_makes_the_object_be_read_back() -> None:
    client = LyingClient(etag="not-an-md5")
    put(client)
    assert client.reads == 1
    client.content = b"another"
    with pytest.raises(StoreMismatch):
        put(client)


def test_data_that_does_not_have_its_own_hash_is_never_sent() -> None:
    class NoClient:
        pass

    with pytest.raises(ValueError, match="sha256"):
        put(NoClient(), sha256="0" * 64)


def test_a_mismatch_may_be_retried() -> None:
    assert issubclass(StoreMismatch, InfraUnavailable)


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "s3_endpoint": "http://10.0.0.5:9000",
        "s3_access_key": SecretStr("key"),
        "s3_secret_key": SecretStr("secret"),
    }
    return Settings.model_construct(**(values | changes))


def test_a_host_without_threads_is_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(InfraUnavailable) as failed:
        put(LyingClient())
    assert "no thread left" in (failed.value.reason or "")


def test_urls_are_signed_for_the_public_endpoint_without_asking_anybody() -> None:
    store = open_store(settings(s3_public_endpoint="https://pictures.example.org"))
    url = urlsplit(store.presign("a/b c.png", 60))
    assert (url.scheme, url.netloc) == ("https", "pictures.example.org")
    assert url.path == "/dreamforge/a/b%20c.png"
    assert parse_qs(url.query)["X-Amz-Expires"] == ["60"]
    assert "secret" not in url.query


def test_without_a_public_endpoint_urls_use_the_stores_own() -> None:
    assert open_store(settings()).presign("k", 60).startswith("http://10.0.0.5:9000/dreamforge/k?")


def test_the_client_is_a_real_one() -> None:
    """The double above must not hide that the real client lost one of these."""
    assert all(hasattr(Minio, name) for name in ("put_object", "stat_object", "get_object"))


CALLS: dict[str, Callable[[ObjectStore], Awaitable[object]]] = {
    "s3:ListBucket": ObjectStore.ping,
    "s3:ListBucket, and s3:CreateBucket where it is missing": ObjectStore.ensure_bucket,
    "s3:GetObject": lambda store: store.get("k"),
    "s3:DeleteObject": lambda store: store.delete("k"),
    "s3:PutObject and s3:DeleteObject": ObjectStore.probe_write,
    "s3:PutObject and s3:GetObject": lambda store: store.put(
        "k", DATA, content_type="image/png", sha256=SHA256
    ),
}


@pytest.mark.parametrize("zone", ["GMT", "+0100", "-0000"])
@pytest.mark.parametrize("code", ["AccessDenied", "RequestTimeTooSkewed"])
def test_a_store_whose_clock_differs_is_no_matter_of_keys(zone: str, code: str) -> None:
    """By S3's name for it, whatever this store called it, and however it writes its time."""
    theirs = datetime.now(timezone(timedelta(hours=zone == "+0100"))) - timedelta(seconds=1000)
    date = f"{theirs:%d %b %Y %H:%M:%S} {zone}"

    def refuse(*_: Any, **__: Any) -> None:
        raise S3Error(urllib3.HTTPResponse(headers={"Date": date}), code, None, None, None, None)

    client: Any = SimpleNamespace(bucket_exists=refuse)
    store = ObjectStore(client=client, public=client, bucket="b", pool=urllib3.PoolManager())
    with pytest.raises(ClockDiffers) as found:
        anyio.run(store.ping)
    assert found.value.message == "the object store refuses us: RequestTimeTooSkewed"
    seconds = re.search(r"is (\d+) s ahead of the store's; let NTP", found.value.reason)
    assert seconds is not None
    assert 1000 <= int(seconds[1]) < 1100


@pytest.mark.parametrize("needs", CALLS)
def test_a_key_that_may_not_do_it_is_told_which_permission_is_missing(needs: str) -> None:
    """With a clock that is right, or a store that does not say what time it is."""
    now = format_datetime(datetime.now(UTC), usegmt=True)
    answers: list[dict[str, str]] = [{"Date": now}, {"Date": "yesterday"}, {"Date": FAR}, {}]

    def refuse(*_: Any, **__: Any) -> None:
        response = urllib3.HTTPResponse(headers=answers.pop())
        raise S3Error(response, "AccessDenied", None, None, None, None)

    while answers:
        client: Any = SimpleNamespace(
            bucket_exists=refuse, get_object=refuse, remove_object=refuse, put_object=refuse
        )
        store = ObjectStore(client=client, public=client, bucket="b", pool=urllib3.PoolManager())
        with pytest.raises(StoreRefused) as found:
            anyio.run(CALLS[needs], store)
        assert found.value.reason == f"this needs {needs}"
        assert found.value.message == "the object store refuses us: AccessDenied"
