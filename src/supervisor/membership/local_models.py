"""Which models this host can run: enabled in the registry, on this disk, and with the same bytes.

Checked as often as the heart beats, since users change folders under a living worker. A folder
whose files are unchanged is not read again: each file's inode, size and times tell, one system call
a file. The folder may lie on a disk that does not answer: then its model cannot run here, and
neither the other models nor the heartbeat wait for it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import anyio
from pydantic import ValidationError

from shared.db import models as registry_rows
from shared.db.engine import Database
from shared.db.models import Model
from shared.errors import ModelUnavailable
from shared.models.descriptor import parse_descriptor
from shared.models.folder import DESCRIPTOR
from shared.models.libraries import libraries_of
from shared.models.stamp import Stamp, stamp_of
from shared.models.verify import check_installed
from shared.step_store import PinnedModel
from shared.threads import OneAtATime

log = logging.getLogger(__name__)

T = TypeVar("T")

# A local disk answers in a millisecond, and with all headers of a large model in some seconds.
STAMP_WITHIN_S, CHECK_WITHIN_S = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Verified:
    """A row of the registry whose files passed the check, and the stamp that they had."""

    row: Model
    stamp: Stamp


class LocalModels:
    """Refreshed from the registry; a worker claims only steps of what is verified here."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        self._verified: dict[UUID, Verified] = {}
        self._problems: dict[UUID, str] = {}
        self._disks: defaultdict[UUID, OneAtATime] = defaultdict(OneAtATime)  # by model
        self._refreshing = anyio.Lock()
        self.known = False  # they were compared once

    @property
    def checksums(self) -> dict[UUID, str]:
        """Verified models and their checkpoints' hashes."""
        return {
            model_id: verified.row.checkpoint_sha256
            for model_id, verified in self._verified.items()
        }

    def folder(self, model: PinnedModel | Model) -> Path:
        """Where the model lies, or would lie: the runner reports one that was removed meanwhile."""
        return self._root / model.kind / f"{model.name}@{model.version}"

    async def refresh(self) -> None:
        """Compare registry and disk again."""
        async with self._refreshing:
            rows = await self._database.transaction(registry_rows.list_models)
            enabled = {row.id: row for row in rows if row.enabled}
            for model_id in self._verified.keys() - enabled.keys():
                del self._verified[model_id]
            for row in enabled.values():
                await self._check(row)
            self.known = True

    async def _check(self, row: Model) -> None:
        folder, disk = self.folder(row), self._disks[row.id]
        try:
            # Before the check: a change during it is found next time.
            stamp = await _answer(disk, partial(stamp_of, folder), STAMP_WITHIN_S)
            if self._verified.get(row.id) == Verified(row, stamp):
                return
            await _answer(disk, partial(check_row, folder, row), CHECK_WITHIN_S)
        except ModelUnavailable as error:
            self._verified.pop(row.id, None)
            if self._problems.get(row.id) != error.message:  # once, not every ten seconds
                log.warning("model %s@%s: %s", row.name, row.version, error.message)
                self._problems[row.id] = error.message
            return
        self._problems.pop(row.id, None)
        self._verified[row.id] = Verified(row, stamp)
        log.info("model %s@%s can run here", row.name, row.version)


async def _answer(disk: OneAtATime, look: Callable[[], T], within_s: float) -> T:
    try:
        return await disk.run(look, within_s=within_s)
    except TimeoutError as error:
        raise ModelUnavailable("the model's folder does not answer") from error


def check_row(folder: Path, row: Model) -> None:
    """Check that the folder holds what the registry says, file by file.

    The checkpoint's hash covers the weights alone, and another scheduler's configuration beside
    them would give other pictures.
    """
    installed = check_installed(folder, checkpoint_sha256=row.checkpoint_sha256)
    for library in libraries_of(folder, installed):
        library.require()
    try:
        registered = parse_descriptor(row.descriptor)
    except ValidationError as error:
        raise ModelUnavailable("this release cannot read its row in the registry") from error
    if differing := set(registered.files) ^ set(installed.files):
        first = min(file.path for file in differing)
        raise ModelUnavailable(
            f"{first}: not the one that is registered; import the model again", file=first
        )
    if (registered.kind, registered.layout) != (installed.kind, installed.layout):
        raise ModelUnavailable(
            f"{DESCRIPTOR}: kind or layout is not the one that is registered", file=DESCRIPTOR
        )
