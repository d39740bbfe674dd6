"""Which models this host can run: enabled in the registry, on this disk, and the same bytes.

Looked at again with every beat, since people change folders under a living worker. A folder whose
files are as they were the last time is not checked again: what tells is inode, size and times of
each, which is a system call a file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import anyio.to_thread
from pydantic import ValidationError

from shared.db import models as registry_rows
from shared.db.engine import Database
from shared.db.models import Model
from shared.errors import ModelUnavailable
from shared.models.descriptor import ModelDescriptor
from shared.models.folder import DESCRIPTOR
from shared.models.verify import check_installed
from shared.step_store import PinnedModel

log = logging.getLogger(__name__)

# One entry a file: name, inode, size, modified, changed (by whoever touched its name or its mode).
Stamp = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found good: this row, of these files."""

    row: Model
    stamp: Stamp


class LocalModels:
    """Refreshed from the registry; a worker claims only steps of what is verified here."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        self._verified: dict[UUID, Verified] = {}
        self._problems: dict[UUID, str] = {}

    @property
    def checksums(self) -> dict[UUID, str]:
        """Verified models and their checkpoints' hashes."""
        return {
            model_id: verified.row.checkpoint_sha256
            for model_id, verified in self._verified.items()
        }

    def folder(self, model: PinnedModel | Model) -> Path:
        """Where it lies, if it does. Also of one that was taken away since its step was claimed:
        that is for the runner to find, and to say."""
        return self._root / model.kind / f"{model.name}@{model.version}"

    async def refresh(self) -> bool:
        """Look at registry and disk again; True when what this host can run has changed."""
        before = self.checksums
        rows = await self._database.transaction(registry_rows.list_models)
        enabled = {row.id: row for row in rows if row.enabled}
        for model_id in self._verified.keys() - enabled.keys():
            del self._verified[model_id]
        for row in enabled.values():
            await self._look(row)
        return self.checksums != before

    async def _look(self, row: Model) -> None:
        folder = self.folder(row)
        try:
            # Before the check: what changes during it is found next time.
            stamp = await anyio.to_thread.run_sync(stamp_of, folder)
            if self._verified.get(row.id) == Verified(row, stamp):
                return
            await anyio.to_thread.run_sync(check_row, folder, row)
        except ModelUnavailable as error:
            self._verified.pop(row.id, None)
            if self._problems.get(row.id) != error.message:  # once, not every ten seconds
                log.warning("model %s@%s: %s", row.name, row.version, error.message)
                self._problems[row.id] = error.message
            return
        self._problems.pop(row.id, None)
        self._verified[row.id] = Verified(row, stamp)
        log.info("model %s@%s can run here", row.name, row.version)


def stamp_of(folder: Path) -> Stamp:
    """What changes when anybody changes the folder. Raises `ModelUnavailable`."""
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        found = [(path, path.lstat()) for path in paths]
    except OSError as error:
        raise ModelUnavailable(f"the model's folder: {error.strerror}") from error
    return tuple(
        (str(path), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in found
    )


def check_row(folder: Path, row: Model) -> None:
    """Check that the folder holds what the registry says, file by file.

    The checkpoint's hash covers the weights alone; with another scheduler's configuration beside
    them the pictures would be others.
    """
    installed = check_installed(folder, checkpoint_sha256=row.checkpoint_sha256)
    try:
        registered = ModelDescriptor.model_validate(row.descriptor)
    except ValidationError as error:
        raise ModelUnavailable("this release cannot read its row in the registry") from error
    theirs, ours = (set(each.files) for each in (registered, installed))
    if theirs != ours:
        first = min(file.path for file in theirs ^ ours)
        raise ModelUnavailable(
            f"{first}: not the one that is registered; import the model again", file=first
        )
    if (registered.kind, registered.layout) != (installed.kind, installed.layout):
        raise ModelUnavailable(
            f"{DESCRIPTOR}: kind or layout is not the one that is registered", file=DESCRIPTOR
        )
