"""Turn a resolved reference into an installed model: fetch, verify, describe, one rename.

A file without a published hash is refused, since nothing could prove its content. Files lie in
`<root>/.staging/<name>@<version>.download/` until the model is complete (`fetch.py`). They are
deleted only when they are what was published and still no model: another attempt may cure every
other problem.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from cli.download.base_models import check_config, resolve_config
from cli.download.fetch import ProgressDisplay, fetch_files
from cli.download.manifest import check_manifest, find_lone_checkpoint, rename_lone_checkpoint
from cli.download.source import RemoteFile, ResolvedModel
from cli.errors import Failure
from cli.files import named
from cli.models.fit import refuse_misfit
from cli.models.networks import describe_network, refuse_broken_esrgan
from cli.models.store import (
    install_atomic,
    lock_model,
    read_intact,
    remove_other_kinds,
    replace_descriptor,
    staging_path,
)
from shared.errors import ModelUnavailable
from shared.models.checkpoints import Checkpoint, UnknownTensors, recognise
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.describe_lora import describe_lora
from shared.models.descriptor import Descriptor, ModelDescriptor, Source
from shared.models.esrgan import esrgan_scale
from shared.models.families import Kind
from shared.models.folder import CONFIG, DESCRIPTOR, ONE_FILE
from shared.models.lora_header import read_lora
from shared.models.lora_names import looks_like_lora
from shared.models.networks import Network
from shared.models.safetensors_header import tensor_shapes
from shared.models.verify import write_descriptor

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DownloadRequest:
    """A model to install, and how."""

    resolved: ResolvedModel
    name: str
    version: str
    kind: Kind | None = None
    config: str | None = None  # for a single file: folder or reference; None: its family's own
    choose_preset: Callable[[ModelDescriptor], str]  # for jobs that name none; may raise Failure
    preset_given: bool = False  # then a model that is installed already gets it too
    parallel: int = 4

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def weights(self) -> str | None:
        """The single file that is the whole model, or None."""
        return find_lone_checkpoint(self.resolved.files)


def download(
    request: DownloadRequest,
    root: Path,
    display: ProgressDisplay,
    on_installed: Callable[[Path], T],
) -> tuple[T, bool]:
    """Install the model. Raises `Failure`, `ModelUnavailable`.

    Returns the result of `on_installed`, which gets the folder while the model is still locked,
    and whether anything was fetched.
    """
    request = replace(request, resolved=rename_lone_checkpoint(request.resolved))
    check_manifest(request.resolved)
    check_config(request.config, single_file=request.weights is not None)
    with lock_model(root, request.key):
        work = staging_path(root, f"{request.key}.download")
        existing = _find_installed(request, root)
        place = existing or _fetch_and_install(request, work, root, display)
        remove_other_kinds(place, root)
        shutil.rmtree(work, ignore_errors=True)
        return on_installed(place), existing is None


# A model that is installed already ----------------------------------------------------------------


def _find_installed(request: DownloadRequest, root: Path) -> Path | None:
    """The folder that has the same files of the same revision, every byte verified."""
    for place in root.glob(f"[!.]*/{request.key}"):
        descriptor = read_intact(place, partial(_matches_request, request=request))
        if descriptor is None or not _has_config(place, descriptor, request, root):
            continue
        if request.preset_given and isinstance(descriptor, ModelDescriptor):
            preset = request.choose_preset(descriptor)
            if preset != descriptor.default_preset:
                replace_descriptor(
                    place, descriptor.model_copy(update={"default_preset": preset}), root
                )
        return place
    return None


def _matches_request(descriptor: Descriptor, request: DownloadRequest) -> bool:
    announced = {file.path: file.sha256 for file in request.resolved.files}
    installed = {
        file.path: file.sha256
        for file in descriptor.files
        if not (request.weights and file.path.startswith(CONFIG))  # from `config_source`
    }
    return (
        descriptor.source == _source(request.resolved)
        and installed.keys() == announced.keys()
        and all(sha256 in (None, installed[path]) for path, sha256 in announced.items())
        and request.kind in (None, descriptor.kind)
    )


def _has_config(place: Path, descriptor: Descriptor, request: DownloadRequest, root: Path) -> bool:
    """Whether the configuration beside a single file is the requested one."""
    if request.config is None or request.weights is None:
        return True
    checkpoint = recognise(request.weights, tensor_shapes(place, request.weights))
    wanted = resolve_config(checkpoint, request.config, root)
    return descriptor.config_source == _source(wanted)


def _source(resolved: ResolvedModel) -> Source:
    return Source(uri=resolved.uri, revision=resolved.revision)


# A model to fetch ---------------------------------------------------------------------------------


def _fetch_and_install(
    request: DownloadRequest, work: Path, root: Path, display: ProgressDisplay
) -> Path:
    """Put the model together in `work`, then move it to its place."""
    model, config = work / "model", None
    model.mkdir(parents=True, exist_ok=True)
    fetch_files(request.resolved, work, display, parallel=request.parallel)
    found = _recognise(request, work)
    if isinstance(found, Checkpoint):
        config = resolve_config(found, request.config, root)
        check_manifest(config)
        fetch_files(config, work, display, parallel=request.parallel)
    _remove_unlisted(model, (*request.resolved.files, *(config.files if config else ())))
    try:
        network = found if isinstance(found, Network) else None
        descriptor = _describe(request, model, config, network)
        if descriptor.layout != "network":
            refuse_misfit(model)
        elif isinstance(descriptor, ModelDescriptor) and descriptor.kind == "esrgan":
            refuse_broken_esrgan(model / ONE_FILE, descriptor.scale)
    except ModelUnavailable:
        if config is None:  # else the configuration may be wrong, and the weights are good
            shutil.rmtree(work)
        raise
    with named(model / DESCRIPTOR):
        write_descriptor(model, descriptor)
    place = root / descriptor.kind / request.key
    install_atomic(model, place)
    return place


def _recognise(request: DownloadRequest, work: Path) -> Checkpoint | Network | None:
    """What the single file is; None for a folder, and for an ESRGAN, whose shapes say it all."""
    if request.weights is None:
        return None
    try:
        if looks_like_lora(tensor_shapes(work / "model", request.weights)):
            read_lora(work / "model")
            _check_options_of_lora(request)
            return None
        found = _recognise_file(work / "model", request.weights)
    except ModelUnavailable:
        shutil.rmtree(work)
        raise
    if request.config is not None and not isinstance(found, Checkpoint):
        raise Failure("an upscaler is its one file: it needs no --config")
    return found


def _recognise_file(folder: Path, name: str) -> Checkpoint | Network | None:
    shapes = tensor_shapes(folder, name)
    if esrgan_scale(shapes) is not None:
        return None
    try:
        return recognise(name, shapes)
    except UnknownTensors:
        if (network := describe_network(folder / name)) is None:
            raise
        return network


def _check_options_of_lora(request: DownloadRequest) -> None:
    given = {"--kind": request.kind, "--config": request.config}
    for option, value in (given | {"--preset": request.preset_given or None}).items():
        if value is not None:
            raise Failure(f"a LoRA says itself what it is for: it needs no {option}")


def _describe(
    request: DownloadRequest, model: Path, config: ResolvedModel | None, network: Network | None
) -> Descriptor:
    chosen = DescriptorInput(
        name=request.name,
        version=request.version,
        source=_source(request.resolved),
        config_source=None if config is None else _source(config),
        kind=request.kind,
        license=request.resolved.license,
        network=network,
    )
    if request.weights == ONE_FILE and looks_like_lora(tensor_shapes(model, ONE_FILE)):
        return describe_lora(model, chosen)
    descriptor = describe_folder(model, chosen)
    return descriptor.model_copy(update={"default_preset": request.choose_preset(descriptor)})


def _remove_unlisted(model: Path, files: tuple[RemoteFile, ...]) -> None:
    """Delete files of an earlier download that had other patterns."""
    listed = {file.path for file in files}
    for path in model.rglob("*"):
        if path.is_file() and path.relative_to(model).as_posix() not in listed:
            path.unlink()
