"""Check the list of files that a source announces, and later each file against it."""

import hashlib
import re
import unicodedata
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cli.download.source import RemoteFile, ResolvedModel
from cli.errors import Failure
from shared.errors import ModelUnavailable
from shared.models.folder import (
    CONFIG,
    CONFIGS_OF_MODELS,
    DESCRIPTOR,
    INDEX,
    ONE_FILE,
    OPTIONAL,
    check_name,
    hash_file,
)

_HEX = {64: re.compile(r"[0-9a-f]{64}"), 40: re.compile(r"[0-9a-f]{40}")}
_SCHEMES = ("https://", "http://")


def check_manifest(resolved: ResolvedModel) -> None:
    """Refuse a list that cannot be installed safely; `ModelUnavailable` names the file."""
    seen: set[str] = set()
    for file in resolved.files:
        check_name(file.path)
        if not (_is_hex(file.sha256, 64) or _is_hex(file.git_sha1, 40)):
            raise _refused(file, "the source names no hash of it, so nothing could be proven")
        if not file.url.startswith("file:" if resolved.local else _SCHEMES):
            raise _refused(file, "the source names an address of another kind")
        # On some disks, names that differ by case or by how a letter is composed are one file.
        name = unicodedata.normalize("NFC", file.path).casefold()
        if name in seen:
            raise _refused(file, "listed twice")
        if file.path == DESCRIPTOR:
            raise _refused(file, "only this host writes it")
        seen.add(name)
    for name in seen:
        for folder in list(PurePosixPath(name).parents)[:-1]:
            if str(folder) in seen:
                raise ModelUnavailable(f"{folder}: listed as a file and as a folder")


def find_lone_checkpoint(files: tuple[RemoteFile, ...]) -> str | None:
    """The only file of weights in a list that has no pipeline's configuration."""
    paths = [file.path for file in files]
    weights = [path for path in paths if path.endswith(".safetensors")]
    if len(weights) != 1 or INDEX in paths or f"{CONFIG}{INDEX}" in paths:
        return None
    return weights[0]


def rename_lone_checkpoint(resolved: ResolvedModel) -> ResolvedModel:
    """Give a lone checkpoint the name that every such file has in a model's folder.

    Raises `Failure` for a list that cannot be a model, before anything is fetched.
    """
    paths = {file.path for file in resolved.files}
    if INDEX in paths or f"{CONFIG}{INDEX}" in paths:
        return resolved
    weights = find_lone_checkpoint(resolved.files)
    if weights is None:
        checkpoints = sorted(path for path in paths if path.endswith(".safetensors"))
        raise Failure(
            f"{resolved.uri} is no diffusers folder: it has no {INDEX}",
            hint=f"choose one of its files with #NAME: {', '.join(checkpoints[:8])}"
            if checkpoints
            else "",
        )
    return replace(
        resolved,
        files=tuple(
            replace(file, path=ONE_FILE) if file.path == weights else file
            for file in resolved.files
        ),
    )


def leave_out_optional(resolved: ResolvedModel) -> ResolvedModel:
    """Leave out the optional parts that lack a configuration, or weights that can be loaded."""
    paths = [file.path for file in resolved.files]
    for part in OPTIONAL:
        inside = [path for path in paths if path.startswith(f"{part}/")]
        weights = any(path.endswith(".safetensors") for path in inside)
        if not (weights and f"{part}/{CONFIGS_OF_MODELS}" in inside):
            paths = [path for path in paths if path not in inside]
    files = tuple(file for file in resolved.files if file.path in paths)
    left_out = [file.path for file in resolved.files if file.path not in paths]
    return replace(resolved, files=files, skipped=(*resolved.skipped, *left_out))


def find_mismatch(path: Path, file: RemoteFile) -> str | None:
    """How a fetched file differs from the announced one, or None."""
    size_bytes = path.stat().st_size
    if file.is_too_small(size_bytes) or file.is_too_large(size_bytes):
        return f"{size_bytes} bytes, announced were {file.size_bytes}"
    if file.sha256 is not None and hash_file(path) != file.sha256:
        return "its SHA-256 is not the one that was published"
    if file.git_sha1 is not None and _git_sha1(path) != file.git_sha1:
        return "it is not the file of the pinned revision"
    return None


def _git_sha1(path: Path) -> str:
    """The name that git gives to a file's content. The hub has no other hash of small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest()


def _is_hex(value: str | None, digits: int) -> bool:
    return value is not None and _HEX[digits].fullmatch(value) is not None


def _refused(file: RemoteFile, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{file.path}: {why}", file=file.path)
