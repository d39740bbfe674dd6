"""From a reference to an installed model: resolve, fetch, verify, describe, one rename.

Below `<root>/.staging/<name>@<version>.download/`: `parts/` holds what is still coming, `model/`
what has arrived and has the hash that was announced. A killed download goes on from there.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

from cli.download.source import RemoteFile, Resolved
from cli.download.transfer import Patience, fetch, open_client
from cli.failures import Failure
from cli.model_store import locked, put, staging, take_away
from shared.errors import ModelUnavailable
from shared.model_files import DESCRIPTOR, check_name, hash_file
from shared.model_schema import Kind
from shared.registry import Source, describe_folder, read_model, verify_model, write_descriptor

CHUNK_BYTES = 1 << 20
SPARE_BYTES = 256 << 20  # left free on the disk: others write there too


class Watcher(Protocol):
    def begin(self, path: str, total_bytes: int | None) -> Callable[[int], None]:
        """A file starts; call the answer with the bytes of it that are here."""
        ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to install, and how."""

    resolved: Resolved
    name: str
    version: str
    kind: Kind | None = None
    parallel: int = 4
    patience: Patience = field(default_factory=Patience)


def download(order: Order, root: Path, watcher: Watcher) -> tuple[Path, bool]:
    """The installed folder, and whether anything was fetched. Raises Failure, ModelUnavailable."""
    _check_manifest(order.resolved.files)
    key = f"{order.name}@{order.version}"
    with locked(root, key):
        there = _installed(order, root, key)
        if there is not None:
            return there, False
        work = staging(root, f"{key}.download")
        model, parts = work / "model", work / "parts"
        for folder in (model, parts):
            folder.mkdir(parents=True, exist_ok=True)
        _forget_strangers(model, order.resolved.files)
        _check_space(order.resolved.files, model, parts)
        _fetch_all(order, model, parts, watcher)
        place = _describe(order, model, root, key)
        put(model, place)
        shutil.rmtree(work)
        return place, True


def _check_manifest(files: tuple[RemoteFile, ...]) -> None:
    seen: set[str] = set()
    for file in files:
        check_name(file.path)
        if file.path.casefold() in seen:  # on some disks the second would overwrite the first
            raise ModelUnavailable(f"{file.path}: listed twice", file=file.path)
        if file.path == DESCRIPTOR:
            raise ModelUnavailable(f"{DESCRIPTOR}: only this host writes it", file=file.path)
        seen.add(file.path.casefold())


def _installed(order: Order, root: Path, key: str) -> Path | None:
    """Where the same files of the same revision are already, every byte as it should be."""
    wanted = Source(uri=order.resolved.uri, revision=order.resolved.revision)
    for place in root.glob(f"[!.]*/{key}"):
        try:
            descriptor = read_model(place)
            verify_model(place, descriptor)
        except ModelUnavailable:
            continue  # it is here in order to be replaced
        paths = {file.path for file in descriptor.files}
        if descriptor.source == wanted and paths == {file.path for file in order.resolved.files}:
            return place
    return None


def _forget_strangers(model: Path, files: tuple[RemoteFile, ...]) -> None:
    """Drop what an earlier download with other choices of files left."""
    wanted = {file.path for file in files}
    for path in model.rglob("*"):
        if path.is_file() and path.relative_to(model).as_posix() not in wanted:
            path.unlink()


def _check_space(files: tuple[RemoteFile, ...], model: Path, parts: Path) -> None:
    announced = sum(file.size_bytes or 0 for file in files)
    here = sum(path.stat().st_size for path in (model.parent).rglob("*") if path.is_file())
    free = shutil.disk_usage(parts).free
    if announced - here + SPARE_BYTES > free:
        raise Failure(
            f"{(announced - here) / 1e9:.1f} GB to fetch, {free / 1e9:.1f} GB free at {parts}",
            hint="make room, or set DF_MODELS_DIR to a larger disk",
        )


def _fetch_all(order: Order, model: Path, parts: Path, watcher: Watcher) -> None:
    stop = threading.Event()
    with open_client() as client, ThreadPoolExecutor(order.parallel) as pool:
        work = partial(_bring, client, order, model, parts, watcher, stop)
        running = [pool.submit(work, file) for file in order.resolved.files]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            stop.set()  # one refusal, or Ctrl-C, ends the download
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bring(
    client: httpx.Client,
    order: Order,
    model: Path,
    parts: Path,
    watcher: Watcher,
    stop: threading.Event,
    file: RemoteFile,
) -> None:
    target = model / file.path
    moved = watcher.begin(file.path, file.size_bytes)
    if target.exists():
        if _problem(target, file) is None:
            return moved(target.stat().st_size)
        target.unlink()
    part = parts / f"{hashlib.sha256(file.path.encode()).hexdigest()[:32]}.part"
    if urlsplit(file.url).scheme == "file":
        _copy(Path(unquote(urlsplit(file.url).path)), part, moved)
    else:
        fetch(
            client,
            file,
            part,
            token=order.resolved.token,
            remedy=order.resolved.remedy,
            moved=moved,
            patience=order.patience,
            stop=stop,
        )
    problem = _problem(part, file)
    if problem is not None:
        part.unlink()  # nothing of it can be used
        raise ModelUnavailable(f"{file.path}: {problem}", file=file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    part.with_suffix(".etag").unlink(missing_ok=True)


def _copy(source: Path, part: Path, moved: Callable[[int], None]) -> None:
    with source.open("rb") as reader, part.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            moved(writer.tell())


def _problem(path: Path, file: RemoteFile) -> str | None:
    size_bytes = path.stat().st_size
    if file.size_bytes is not None and size_bytes != file.size_bytes:
        return f"{size_bytes} bytes, announced were {file.size_bytes}"
    if file.sha256 is not None and hash_file(path) != file.sha256:
        return "its SHA-256 is not the one that was published"
    if file.git_sha1 is not None and _git_sha1(path) != file.git_sha1:
        return "it is not the file of the pinned revision"
    return None


def _git_sha1(path: Path) -> str:
    """The name that git gives to a file's content. Small files only have this."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def _describe(order: Order, model: Path, root: Path, key: str) -> Path:
    """Write the descriptor; a model that cannot be one is refused, its files are not kept."""
    resolved = order.resolved
    try:
        descriptor = describe_folder(
            model,
            name=order.name,
            version=order.version,
            source=Source(uri=resolved.uri, revision=resolved.revision),
            kind=order.kind,
            license=resolved.license,
        )
    except ModelUnavailable:
        take_away(model, root)
        raise
    write_descriptor(model, descriptor)
    return root / descriptor.kind / key
