"""Model folders on this host: those that ship with the project, installing and registering one."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import partial
from pathlib import Path

from shared.registry import (
    DESCRIPTOR,
    check_installed,
    read_model,
    verify_model,
)


def bundled() -> list[Path]:
    """Folders of the models that ship with the project, the demo's own first."""
    spec = importlib.util.find_spec("migrations")  # our neighbour, in a clone and when installed
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent.parent / "models"
    found = [path.parent for path in root.glob(f"*/*@*/{DESCRIPTOR}")]
    return sorted(found, key=lambda folder: (not folder.name.startswith("dreamforge-"), folder))


def install(folder: Path, root: Path) -> Path:
    """Copy a model to its place below `root`, whole or not at all, and verify every byte.

    A model that is there already with the same descriptor is only looked at. Raises
    ModelUnavailable naming the file that is not as it should be.
    """
    descriptor = read_model(folder)
    place = root / descriptor.kind / f"{descriptor.name}@{descriptor.version}"
    if folder.absolute() != place.absolute() and not _same(folder, place):
        verify_model(folder, descriptor)
        _copy(folder, place)
    check_installed(place, checkpoint_sha256=descriptor.checkpoint_sha256)
    return place


def register(database_url: str, folder: Path) -> str:
    """Write the model's row and return its id. Raises InfraUnavailable."""
    import anyio

    from shared.db.engine import Database
    from shared.db.models import upsert_model

    descriptor = read_model(folder)

    async def work() -> str:
        database = Database(database_url, pool_size=1, application="dreamforge-cli")
        try:
            row = await database.transaction(partial(upsert_model, descriptor=descriptor))
        finally:
            await database.close()
        return str(row.id)

    return anyio.run(work)


def _same(folder: Path, place: Path) -> bool:
    there = place / DESCRIPTOR
    return there.exists() and there.read_bytes() == (folder / DESCRIPTOR).read_bytes()


def _copy(folder: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f"{place.name}.{os.getpid()}.new")
    shutil.copytree(folder, draft)
    shutil.rmtree(place, ignore_errors=True)  # an older build of the same version
    draft.rename(place)
