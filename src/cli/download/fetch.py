"""Fetch files into a work folder, several at a time, and verify each one.

    <work>/parts/   files that are incomplete
    <work>/model/   files that are complete and have the announced hash

A killed command leaves both; the next one continues from there.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from cli.download.manifest import find_mismatch
from cli.download.source import RemoteFile, ResolvedModel
from cli.download.transfer import OnBytes, Part, Transfer
from cli.errors import Failure
from cli.files import named
from cli.models.store import check_free_space
from shared.errors import ModelUnavailable
from shared.models.folder import WEIGHTS
from shared.models.weights_file import weights_shapes

CHUNK_BYTES = 1 << 20
Fetch = Callable[[Part], None]


class ProgressDisplay(Protocol):
    def begin(self, path: str, total_bytes: int | None) -> OnBytes:
        """Show a file. Call the result with the number of its bytes as they come."""
        ...


def fetch_files(
    resolved: ResolvedModel, work: Path, display: ProgressDisplay, *, parallel: int
) -> None:
    """Fetch all files into `work/model`. Raises `Failure`, `ModelUnavailable`."""
    _check_space(resolved.files, work)
    stop = threading.Event()
    if resolved.local:  # without a client: its proxies may be wrong, and none is needed
        _fetch_all(resolved.files, partial(_copy, stop), work, display, stop, parallel)
        return
    transfer = Transfer(credential=resolved.credential, remedy=resolved.remedy, stop=stop)
    with closing(transfer):
        _fetch_all(resolved.files, transfer.fetch, work, display, stop, parallel)


def _fetch_all(
    files: tuple[RemoteFile, ...],
    fetch: Fetch,
    work: Path,
    display: ProgressDisplay,
    stop: threading.Event,
    parallel: int,
) -> None:
    pool = ThreadPoolExecutor(parallel)
    running = [pool.submit(_fetch_one, fetch, file, work, display) for file in files]
    try:
        for each in as_completed(running):
            each.result()
    except KeyboardInterrupt:
        # A thread may be in a read for half a minute, or in a hash for longer. The user does not
        # wait for it: the process ends, and the next command continues from what is here.
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        stop.set()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _fetch_one(fetch: Fetch, file: RemoteFile, work: Path, display: ProgressDisplay) -> None:
    target = work / "model" / file.path
    part = Part(
        file=file,
        path=_part_path(work, file),
        on_bytes=display.begin(file.path, file.size_bytes),
    )
    if target.exists():
        if find_mismatch(target, file) is None:
            return part.on_bytes(target.stat().st_size)
        target.unlink()
    part.path.parent.mkdir(parents=True, exist_ok=True)
    fetch(part)
    wrong = find_mismatch(part.path, file)
    if wrong is not None:
        part.path.unlink()  # which bytes are wrong is unknown
        raise ModelUnavailable(f"{file.path}: {wrong}", file=file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.path.replace(target)
    part.validator.unlink(missing_ok=True)


def _copy(stop: threading.Event, part: Part) -> None:
    source = Path(os.fsdecode(unquote_to_bytes(urlsplit(part.file.url).path)))
    if not source.is_file():
        raise Failure(f"{source}: no such file")
    if part.file.path.endswith(WEIGHTS):
        weights_shapes(source.parent, source.name)  # before a copy that may take minutes
    check_free_space(part.path, source.stat().st_size)
    with source.open("rb") as reader, named(part.path), part.path.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            if stop.is_set():
                raise Failure(f"{part.file.path}: stopped")
            writer.write(chunk)
            part.on_bytes(writer.tell())


def _check_space(files: tuple[RemoteFile, ...], work: Path) -> None:
    """Refuse what would fill the disk, before the first byte. Raises `Failure`."""
    missing = 0
    for file in files:
        paths = (work / "model" / file.path, _part_path(work, file))
        here = max(path.stat().st_size if path.exists() else 0 for path in paths)
        missing += max(0, (file.size_bytes or 0) - here)
    check_free_space(work, missing)


def _part_path(work: Path, file: RemoteFile) -> Path:
    """The hash is in the name, so that a download never continues another file."""
    key = hashlib.sha256(f"{file.path}\0{file.sha256}\0{file.git_sha1}".encode()).hexdigest()
    return work / "parts" / f"{key[:32]}.part"
