"""The models that a stack has before the operator installs one.

Those that ship with the project (`models/<kind>/<name>@<version>`) are copied into DF_MODELS_DIR
and registered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import StackError
from cli.models.install import bundled_models, install, register

if TYPE_CHECKING:
    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SeedModel:
    """`id` is the row's, `folder` where its files are."""

    id: str
    folder: Path


def install_seed_models(settings: Settings) -> SeedModel:
    """Install and register what ships; return the first of them, for the first picture."""
    root = settings.models_dir.absolute()
    folders = [install(folder, root) for folder in bundled_models()]
    if not folders:
        raise StackError("no model ships with this installation; install dreamforge again")
    url = settings.database_url.get_secret_value()
    ids = [register(url, folder) for folder in folders]
    return SeedModel(id=ids[0], folder=folders[0])
