"""Install a model's folder on this host and register it; find the models that ship with us."""

import importlib.util
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from cli import backends, config
from cli.files import copy_files
from cli.models.store import (
    check_free_space,
    install_atomic,
    lock_model,
    read_intact,
    remove_other_kinds,
    staging_path,
)
from cli.terminal.output import print_note
from shared.models.families import family_of
from shared.models.folder import DESCRIPTOR
from shared.models.verify import check_installed, read_descriptor, verify_model

T = TypeVar("T")


def bundled_models() -> list[Path]:
    """Folders of the models that ship with the project, the one that draws first."""
    spec = importlib.util.find_spec("migrations")  # beside `models`, in a clone and when installed
    if spec is None or spec.origin is None:
        return []
    root = Path(spec.origin).parent.parent / "models"
    folders = [path.parent for path in root.glob(f"*/*@*/{DESCRIPTOR}")]
    return sorted(folders, key=lambda folder: (_upscales(folder), folder))


def _upscales(folder: Path) -> bool:
    return family_of(folder.parent.name).upscaling is not None


def models_dir(environ: Mapping[str, str]) -> Path:
    """Where this host keeps its models: DF_MODELS_DIR, else below DF_HOME."""
    root = environ.get("DF_MODELS_DIR") or config.home(environ).path / "models"
    return Path(root).absolute()


def install(folder: Path, root: Path) -> Path:
    """Copy a model to its place below `root`, whole or not at all, and verify every byte.

    The same model is left alone when it is intact there; a damaged one is replaced. Raises
    `ModelUnavailable` that names a wrong file, `Failure` when the disk is too full.
    """
    return install_then(folder, root, lambda place: place)


def install_then(folder: Path, root: Path, on_installed: Callable[[Path], T]) -> T:
    """As `install`; returns the result of `on_installed`, called while the model is locked."""
    descriptor = read_descriptor(folder)
    place = root / descriptor.kind / f"{descriptor.name}@{descriptor.version}"
    with lock_model(root, place.name):
        if folder.absolute() == place.absolute():
            verify_model(place, descriptor)
        elif read_intact(place, lambda existing: existing == descriptor) is None:
            # Headers, sizes and room first: to hash a large file takes minutes.
            check_installed(folder, checkpoint_sha256=descriptor.checkpoint_sha256)
            draft = staging_path(root, f"{place.name}.import")
            shutil.rmtree(draft, ignore_errors=True)  # of an import that was killed
            check_free_space(draft, sum(file.size_bytes for file in descriptor.files))
            verify_model(folder, descriptor)
            copy_files(folder, draft, (*(file.path for file in descriptor.files), DESCRIPTOR))
            verify_model(draft, descriptor)
            install_atomic(draft, place)
        remove_other_kinds(place, root)
        return on_installed(place)


def note_closed_files(place: Path, root: Path) -> None:
    """Say that other users than the owner cannot read a model: a worker is often another one.

    The folders above it, up to the models folder `root`, may be of an earlier import.
    """
    above = [folder for folder in place.parents if folder.is_relative_to(root)]
    for path in (*above, place, *place.rglob("*")):
        needed = stat.S_IXOTH if path in above else stat.S_IROTH
        needed |= stat.S_IXOTH if path.is_dir() else 0
        if path.stat().st_mode & needed != needed:
            remedy = f"chmod -R a+rX {place}"
            if above:
                remedy = f"chmod a+rx {' '.join(map(str, above))} && {remedy}"
            print_note(
                f"only its owner can read {path}: a worker of another user cannot load the model; "
                f"set umask 022 before an import, or: {remedy}"
            )
            return


def register(database_url: str, folder: Path) -> str:
    """Write the model's row and return its id. Raises `InfraUnavailable`."""
    from shared.db.models import upsert_model

    return str(backends.transaction(database_url, upsert_model, read_descriptor(folder)).id)
