"""From a reference to an installed model: resolve, fetch, verify, describe, one rename.

Below `<root>/.staging/<name>@<version>.download/`: `parts/` holds what is still coming, `model/`
what has arrived and has the hash that was announced. A killed download goes on from there.

Nothing is installed that could not be proven: a file without a published hash is refused.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from cli.download.bases import beside
from cli.download.manifest import check_manifest, lone_checkpoint, one_file, problem
from cli.download.patience import Patience
from cli.download.source import RemoteFile, Resolved
from cli.download.transfer import Transfer, check_room
from cli.failures import Failure
from cli.model_store import locked, put, redescribe, staging, take_away
from shared.checkpoints import recognise
from shared.errors import ModelUnavailable
from shared.esrgan import esrgan_scale
from shared.model_files import CONFIG
from shared.model_schema import Kind, ModelDescriptor
from shared.registry import Source, describe_folder, read_model, verify_model, write_descriptor
from shared.safetensors_header import tensor_shapes

CHUNK_BYTES = 1 << 20


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
    config: str | None = None  # for a single file: a folder or a reference; None: its family's own
    choose_preset: Callable[[ModelDescriptor], str]  # for jobs that name none; may raise Failure
    preset_asked: bool = False  # then a model that is here already is given it too
    parallel: int = 4
    patience: Patience = field(default_factory=Patience)

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"


def download(order: Order, root: Path, watcher: Watcher) -> tuple[Path, bool]:
    """The installed folder, and whether anything was fetched. Raises Failure, ModelUnavailable."""
    order = replace(order, resolved=one_file(order.resolved))
    check_manifest(order.resolved)
    with locked(root, order.key):
        work = staging(root, f"{order.key}.download")
        there = _installed(order, root)
        if there is not None:
            shutil.rmtree(work, ignore_errors=True)  # of a download that was killed
            return there, False
        place = _fetched(order, work, root, watcher)
        for other in root.glob(f"[!.]*/{order.key}"):
            if other != place:  # it was taken for another kind
                take_away(other, root)
        shutil.rmtree(work)
        return place, True


def _installed(order: Order, root: Path) -> Path | None:
    """Where the same files of the same revision are already, every byte as it should be."""
    for place in root.glob(f"[!.]*/{order.key}"):
        try:
            descriptor = read_model(place)
            if not _is_what_was_ordered(place, descriptor, order):
                continue
            verify_model(place, descriptor)
        except ModelUnavailable:
            continue  # it is here in order to be replaced
        if order.preset_asked:
            preset = order.choose_preset(descriptor)
            if preset != descriptor.default_preset:
                redescribe(place, descriptor.model_copy(update={"default_preset": preset}), root)
        return place
    return None


def _is_what_was_ordered(place: Path, descriptor: ModelDescriptor, order: Order) -> bool:
    weights = lone_checkpoint(order.resolved.files)
    wanted = {file.path: file.sha256 for file in order.resolved.files}
    own = {
        file.path: file.sha256
        for file in descriptor.files
        if not (weights and file.path.startswith(CONFIG))  # that was found for it
    }
    return (
        descriptor.source == _source(order.resolved)
        and own.keys() == wanted.keys()
        and all(sha256 in (None, own[path]) for path, sha256 in wanted.items())
        and order.kind in (None, descriptor.kind)
        and (not weights or order.config is None or _has_config(place, descriptor, order, weights))
    )


def _has_config(place: Path, descriptor: ModelDescriptor, order: Order, weights: str) -> bool:
    """Whether what lies beside a single file is what was asked for now."""
    found = recognise(weights, tensor_shapes(place, weights))
    return descriptor.config_source == _source(beside(found, order.config))


def _source(resolved: Resolved) -> Source:
    return Source(uri=resolved.uri, revision=resolved.revision)


def _fetched(order: Order, work: Path, root: Path, watcher: Watcher) -> Path:
    """Bring the model into `work` and from there to its place."""
    model = work / "model"
    model.mkdir(parents=True, exist_ok=True)
    _bring(order, order.resolved, work, watcher)
    try:
        config = _beside(order, model)
        if config is not None:
            _bring(order, config, work, watcher)
        _forget_strangers(model, (*order.resolved.files, *(config.files if config else ())))
        descriptor = _described(order, model, config)
    except ModelUnavailable:
        shutil.rmtree(work)  # it is what was published, and no model
        raise
    write_descriptor(model, descriptor)
    place = root / descriptor.kind / order.key
    put(model, place)
    return place


def _beside(order: Order, model: Path) -> Resolved | None:
    """What a checkpoint in one file needs beside itself; None for other models."""
    weights = lone_checkpoint(order.resolved.files)
    if weights is None:
        return None
    shapes = tensor_shapes(model, weights)
    if esrgan_scale(shapes) is not None:
        return None
    config = beside(recognise(weights, shapes), order.config)
    check_manifest(config)
    return config


def _described(order: Order, model: Path, config: Resolved | None) -> ModelDescriptor:
    descriptor = describe_folder(
        model,
        name=order.name,
        version=order.version,
        source=_source(order.resolved),
        config_source=None if config is None else _source(config),
        kind=order.kind,
        license=order.resolved.license,
    )
    return descriptor.model_copy(update={"default_preset": order.choose_preset(descriptor)})


def _forget_strangers(model: Path, files: tuple[RemoteFile, ...]) -> None:
    """Drop what an earlier download with other choices of files left."""
    wanted = {file.path for file in files}
    for path in model.rglob("*"):
        if path.is_file() and path.relative_to(model).as_posix() not in wanted:
            path.unlink()


def _bring(order: Order, resolved: Resolved, work: Path, watcher: Watcher) -> None:
    """Bring all files of `resolved` into `work/model`, proven."""
    _check_space(resolved.files, work)
    stop = threading.Event()
    transfer = Transfer(
        credential=resolved.credential, remedy=resolved.remedy, patience=order.patience, stop=stop
    )
    with transfer, ThreadPoolExecutor(order.parallel) as pool:
        fetch = partial(_copy, stop) if resolved.local else transfer.fetch
        running = [pool.submit(_arrive, fetch, file, work, watcher) for file in resolved.files]
        try:
            for each in as_completed(running):
                each.result()
        except BaseException:
            stop.set()  # one refusal, or Ctrl-C, ends the download
            pool.shutdown(wait=False, cancel_futures=True)
            raise


Fetch = Callable[[RemoteFile, Path, Callable[[int], None]], None]


def _arrive(fetch: Fetch, file: RemoteFile, work: Path, watcher: Watcher) -> None:
    target = work / "model" / file.path
    moved = watcher.begin(file.path, file.size_bytes)
    if target.exists():
        if problem(target, file) is None:
            return moved(target.stat().st_size)
        target.unlink()
    part = _part(work, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    fetch(file, part, moved)
    wrong = problem(part, file)
    if wrong is not None:
        part.unlink()  # nothing of it can be used
        raise ModelUnavailable(f"{file.path}: {wrong}", file=file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    part.with_suffix(".validator").unlink(missing_ok=True)


def _copy(
    stop: threading.Event, file: RemoteFile, part: Path, moved: Callable[[int], None]
) -> None:
    source = Path(unquote(urlsplit(file.url).path))
    if not source.is_file():
        raise Failure(f"{source}: no such file")
    with source.open("rb") as reader, part.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            if stop.is_set():
                raise Failure(f"{file.path}: stopped")
            writer.write(chunk)
            moved(writer.tell())


def _check_space(files: tuple[RemoteFile, ...], work: Path) -> None:
    """Whether what is still to come has room. Raises `Failure`."""
    missing = 0
    for file in files:
        paths = (work / "model" / file.path, _part(work, file))
        here = max(path.stat().st_size if path.exists() else 0 for path in paths)
        missing += max(0, (file.size_bytes or 0) - here)
    check_room(work, missing)


def _part(work: Path, file: RemoteFile) -> Path:
    """Where a file is put together. Its hash is in the name: another file is never continued."""
    known = hashlib.sha256(f"{file.path}\0{file.sha256}\0{file.git_sha1}".encode()).hexdigest()
    return work / "parts" / f"{known[:32]}.part"
