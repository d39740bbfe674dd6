"""From a reference to an installed model: resolve, fetch, verify, describe, one rename.

Nothing is installed that could not be proven: a file without a published hash is refused. What has
arrived lies in `<root>/.staging/<name>@<version>.download/` until the model is whole (`fetching`).
It is thrown away only when it is what was published, and no model: whatever else is wrong, another
try may cure.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from cli.download.base_models import beside, check_config
from cli.download.fetch import Watcher, bring
from cli.download.manifest import check_manifest, lone_checkpoint, one_file
from cli.download.retry import Patience
from cli.download.source import RemoteFile, Resolved
from cli.errors import Failure
from cli.models.store import locked, only, put, redescribe, staging
from shared.errors import ModelUnavailable
from shared.models.checkpoints import Checkpoint, recognise
from shared.models.descriptor import Kind, ModelDescriptor
from shared.models.esrgan import esrgan_scale
from shared.models.folder import CONFIG
from shared.models.safetensors_header import tensor_shapes
from shared.models.verify import Source, describe_folder, read_model, verify_model, write_descriptor

T = TypeVar("T")


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

    @property
    def weights(self) -> str | None:
        """The one file, where that is all that was asked for."""
        return lone_checkpoint(self.resolved.files)


def download(
    order: Order, root: Path, watcher: Watcher, arrived: Callable[[Path], T]
) -> tuple[T, bool]:
    """Install what was ordered. Raises `Failure`, `ModelUnavailable`.

    Returns what `arrived` says of the folder, with the model's lock still held, and whether
    anything was fetched.
    """
    order = replace(order, resolved=one_file(order.resolved))
    check_manifest(order.resolved)
    check_config(order.config, wanted=order.weights is not None)
    with locked(root, order.key):
        work = staging(root, f"{order.key}.download")
        there = _installed(order, root)
        place = there or _fetched(order, work, root, watcher)
        only(place, root)  # it may have been taken for another kind
        shutil.rmtree(work, ignore_errors=True)
        return arrived(place), there is None


# What is here already -----------------------------------------------------------------------------


def _installed(order: Order, root: Path) -> Path | None:
    """Where the same files of the same revision are already, every byte as it should be."""
    for place in root.glob(f"[!.]*/{order.key}"):
        descriptor = _sound(place, order)
        if descriptor is None or not _has_config(place, descriptor, order):
            continue
        if order.preset_asked:
            preset = order.choose_preset(descriptor)
            if preset != descriptor.default_preset:
                redescribe(place, descriptor.model_copy(update={"default_preset": preset}), root)
        return place
    return None


def _sound(place: Path, order: Order) -> ModelDescriptor | None:
    """The description of a model that is what was ordered; None: it is here to be replaced."""
    try:
        descriptor = read_model(place)
        if not _is_what_was_ordered(descriptor, order):
            return None
        verify_model(place, descriptor)
    except ModelUnavailable:
        return None
    return descriptor


def _is_what_was_ordered(descriptor: ModelDescriptor, order: Order) -> bool:
    wanted = {file.path: file.sha256 for file in order.resolved.files}
    own = {
        file.path: file.sha256
        for file in descriptor.files
        if not (order.weights and file.path.startswith(CONFIG))  # that was found for it
    }
    return (
        descriptor.source == _source(order.resolved)
        and own.keys() == wanted.keys()
        and all(sha256 in (None, own[path]) for path, sha256 in wanted.items())
        and order.kind in (None, descriptor.kind)
    )


def _has_config(place: Path, descriptor: ModelDescriptor, order: Order) -> bool:
    """Whether what lies beside a single file is what was asked for now."""
    if order.config is None or order.weights is None:
        return True
    found = recognise(order.weights, tensor_shapes(place, order.weights))
    return descriptor.config_source == _source(beside(found, order.config))


def _source(resolved: Resolved) -> Source:
    return Source(uri=resolved.uri, revision=resolved.revision)


# What is fetched ----------------------------------------------------------------------------------


def _fetched(order: Order, work: Path, root: Path, watcher: Watcher) -> Path:
    """Bring the model into `work` and from there to its place."""
    model, config = work / "model", None
    model.mkdir(parents=True, exist_ok=True)
    _bring(order, order.resolved, work, watcher)
    found = _recognised(order, work)
    if found is not None:
        config = beside(found, order.config)
        check_manifest(config)
        _bring(order, config, work, watcher)
    _forget_strangers(model, (*order.resolved.files, *(config.files if config else ())))
    try:
        descriptor = _described(order, model, config)
    except ModelUnavailable:
        if config is None:  # else that may be what is wrong, and the weights are good
            shutil.rmtree(work)
        raise
    write_descriptor(model, descriptor)
    place = root / descriptor.kind / order.key
    put(model, place)
    return place


def _bring(order: Order, resolved: Resolved, work: Path, watcher: Watcher) -> None:
    bring(resolved, work, watcher, parallel=order.parallel, patience=order.patience)


def _recognised(order: Order, work: Path) -> Checkpoint | None:
    """What a checkpoint in one file is; None for what needs nothing beside itself."""
    if order.weights is None:
        return None
    try:
        shapes = tensor_shapes(work / "model", order.weights)
        if esrgan_scale(shapes) is None:
            return recognise(order.weights, shapes)
    except ModelUnavailable:
        shutil.rmtree(work)
        raise
    if order.config is not None:
        raise Failure("an upscaler is its one file: it needs no --config")
    return None


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
