"""Model folders on this host: those that ship with the project, installing and registering one."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from cli import config
from cli.models.store import (
    check_free_space,
    install_atomic,
    lock_model,
    remove_other_kinds,
    staging_path,
)
from shared.errors import ModelUnavailable
from shared.models.descriptor import ModelDescriptor
from shared.models.folder import DESCRIPTOR
from shared.models.verify import read_model, verify_model

T = TypeVar("T")


def bundled_models() -> list[Path]:
    """Folders of the models that ship with the project, the demo's own first."""
    spec = importlib.util.find_spec("migrations")  # our neighbour, in a clone and when installed
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent.parent / "models"
    found = [path.parent for path in root.glob(f"*/*@*/{DESCRIPTOR}")]
    return sorted(found, key=lambda folder: (not folder.name.startswith("dreamforge-"), folder))


def models_dir(environ: Mapping[str, str]) -> Path:
    """Where this host keeps its models: DF_MODELS_DIR, else below DF_HOME."""
    root = environ.get("DF_MODELS_DIR") or config.home(environ).path / "models"
    return Path(root).absolute()


def install(folder: Path, root: Path) -> Path:
    """Copy a model to its place below `root`, whole or not at all, and verify every byte.

    One that is there already as described, to the last byte, is left alone; a damaged one is
    replaced. Raises `ModelUnavailable` naming the file that is not as it should be, `Failure` for
    want of room.
    """
    return install_then(folder, root, lambda place: place)


def install_then(folder: Path, root: Path, arrived: Callable[[Path], T]) -> T:
    """`install`, and return what `arrived` says of the folder, with the model's lock still held."""
    descriptor = read_model(folder)
    place = root / descriptor.kind / f"{descriptor.name}@{descriptor.version}"
    with lock_model(root, place.name):
        if folder.absolute() == place.absolute():
            verify_model(place, descriptor)
        elif not _is_intact(place, descriptor):
            verify_model(folder, descriptor)
            draft = staging_path(root, f"{place.name}.import")
            shutil.rmtree(draft, ignore_errors=True)  # of an import that was killed
            check_free_space(draft, sum(file.size_bytes for file in descriptor.files))
            shutil.copytree(folder, draft)
            verify_model(draft, descriptor)
            install_atomic(draft, place)
        remove_other_kinds(place, root)
        return arrived(place)


def _is_intact(place: Path, descriptor: ModelDescriptor) -> bool:
    try:
        if read_model(place) != descriptor:
            return False
        verify_model(place, descriptor)
    except ModelUnavailable:
        return False
    return True


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
