"""Files into a work folder, several at a time, each proven before it counts.

    <work>/parts/   what is still coming
    <work>/model/   what has arrived and has the hash that was announced

A killed command leaves both; the next one goes on from there.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cli.download.manifest import find_mismatch
from cli.download.retry import RetryPolicy
from cli.download.source import RemoteFile, ResolvedModel
from cli.download.transfer import OnBytes, Transfer
from cli.errors import Failure
from cli.models.store import check_free_space
from shared.errors import ModelUnavailable

CHUNK_BYTES = 1 << 20
Fetch = Callable[[RemoteFile, Path, OnBytes], None]


class ProgressDisplay(Protocol):
    def begin(self, path: str, total_bytes: int | None) -> OnBytes:
        """A file starts; call the answer with the bytes of it that are here."""
        ...


def fetch_files(
    resolved: ResolvedModel,
    work: Path,
    display: ProgressDisplay,
    *,
    parallel: int,
    policy: RetryPolicy,
) -> None:
    """Bring all files of `resolved` into `work/model`. Raises `Failure`, `ModelUnavailable`."""
    _check_space(resolved.files, work)
    stop = threading.Event()
    transfer = Transfer(
        credential=resolved.credential, remedy=resolved.remedy, policy=policy, stop=stop
    )
    fetch = partial(_copy, stop) if resolved.local else transfer.fetch
    pool = ThreadPoolExecutor(parallel)
    running = [pool.submit(_fetch_one, fetch, file, work, display) for file in resolved.files]
    try:
        for each in as_completed(running):
            each.result()
    except KeyboardInterrupt:
        # A thread may be in a read for half a minute, or in a hash for longer. Whoever pressed the
        # keys does not wait for it: the process ends, and what is here is gone on with.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        stop.set()
        pool.shutdown(cancel_futures=True)
        transfer.close()
        raise
    pool.shutdown()
    transfer.close()


def _fetch_one(fetch: Fetch, file: RemoteFile, work: Path, display: ProgressDisplay) -> None:
    target = work / "model" / file.path
    on_bytes = display.begin(file.path, file.size_bytes)
    if target.exists():
        if find_mismatch(target, file) is None:
            return on_bytes(target.stat().st_size)
        target.unlink()
    part = _part(work, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    fetch(file, part, on_bytes)
    wrong = find_mismatch(part, file)
    if wrong is not None:
        part.unlink()  # nothing of it can be used
        raise ModelUnavailable(f"{file.path}: {wrong}", file=file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    part.with_suffix(".validator").unlink(missing_ok=True)


def _copy(stop: threading.Event, file: RemoteFile, part: Path, on_bytes: OnBytes) -> None:
    source = Path(unquote(urlsplit(file.url).path))
    if not source.is_file():
        raise Failure(f"{source}: no such file")
    with source.open("rb") as reader, part.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            if stop.is_set():
                raise Failure(f"{file.path}: stopped")
            writer.write(chunk)
            on_bytes(writer.tell())


def _check_space(files: tuple[RemoteFile, ...], work: Path) -> None:
    """Whether what is still to come has room. Raises `Failure`."""
    missing = 0
    for file in files:
        paths = (work / "model" / file.path, _part(work, file))
        here = max(path.stat().st_size if path.exists() else 0 for path in paths)
        missing += max(0, (file.size_bytes or 0) - here)
    check_free_space(work, missing)


def _part(work: Path, file: RemoteFile) -> Path:
    """Where a file is put together. Its hash is in the name: another file is never continued."""
    known = hashlib.sha256(f"{file.path}\0{file.sha256}\0{file.git_sha1}".encode()).hexdigest()
    return work / "parts" / f"{known[:32]}.part"
