"""Which models this host can run: enabled in the registry, on this disk, and the same bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from uuid import UUID

import anyio.to_thread

from shared.db import models as registry_rows
from shared.db.engine import Database
from shared.db.models import Model
from shared.errors import ModelUnavailable
from shared.registry import check_installed

log = logging.getLogger(__name__)


class HostModels:
    """Refreshed from the registry; a worker claims only steps of what is verified here."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        self._verified: dict[UUID, tuple[str, Path]] = {}
        self._problems: dict[UUID, str] = {}

    @property
    def checksums(self) -> dict[UUID, str]:
        """Verified models and their checkpoints' hashes."""
        return {model_id: checksum for model_id, (checksum, _) in self._verified.items()}

    def folder(self, model_id: UUID) -> str:
        return str(self._verified[model_id][1])

    async def refresh(self) -> bool:
        """Look at the registry again; True when what this host can run has changed."""
        before = self.checksums
        rows = await self._database.transaction(registry_rows.list_models)
        enabled = {row.id: row for row in rows if row.enabled}
        for model_id in self._verified.keys() - enabled.keys():
            del self._verified[model_id]
        for row in enabled.values():
            if self._verified.get(row.id, ("",))[0] != row.checkpoint_sha256:
                await self._verify(row)
        return self.checksums != before

    async def _verify(self, row: Model) -> None:
        folder = self._root / row.kind / f"{row.name}@{row.version}"
        try:
            await anyio.to_thread.run_sync(
                lambda: check_installed(folder, checkpoint_sha256=row.checkpoint_sha256)
            )
        except ModelUnavailable as error:
            self._verified.pop(row.id, None)
            if self._problems.get(row.id) != error.message:  # once, not every ten seconds
                log.warning("model %s@%s: %s", row.name, row.version, error.message)
                self._problems[row.id] = error.message
            return
        self._problems.pop(row.id, None)
        self._verified[row.id] = (row.checkpoint_sha256, folder)
        log.info("model %s@%s can run here", row.name, row.version)
