"""The models that a stack has before the operator installs one.

Those that ship with the project (`models/<kind>/<name>@<version>`) are copied into DF_MODELS_DIR
and registered. Where none ships, a tiny pipeline with random weights is built: it draws noise, but
through the same loading path as a real one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.models.install import bundled_models, install, register
from cli.stack.part import Command
from cli.stack.process_manager import ProcessManager

if TYPE_CHECKING:
    from shared.settings import Settings

_TINY = Path("sd/tiny@1")


@dataclass(frozen=True, kw_only=True)
class SeedModel:
    """`id` is the row's, `folder` where its files are. `trained` is False for noise."""

    id: str
    folder: Path
    trained: bool


def install_seed_models(
    settings: Settings, manager: ProcessManager, environ: Mapping[str, str]
) -> SeedModel:
    """Install and register what ships; returns the first of them, for the first picture."""
    root = settings.models_dir.absolute()
    folders = [install(folder, root) for folder in bundled_models()]
    trained = bool(folders)
    if not trained:
        folders = [_tiny(root, manager, environ)]
    url = settings.database_url.get_secret_value()
    ids = [register(url, folder) for folder in folders]
    return SeedModel(id=ids[0], folder=folders[0], trained=trained)


def _tiny(root: Path, manager: ProcessManager, environ: Mapping[str, str]) -> Path:
    folder = root / _TINY
    if folder.exists():
        return folder
    draft = folder.with_name(f"{folder.name}.new")  # renamed when complete
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    manager.run(
        Command(
            argv=(sys.executable, "-P", "-m", "runner.diffusion.tiny", str(draft)),
            environ=manager.marked(environ),
            cwd=Path.cwd(),
        ),
        log="tiny-model",
    )
    draft.rename(folder)
    return folder
