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
from shared.models.networks import can_run_networks

if TYPE_CHECKING:
    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class SeedModel:
    """`id` is the row's, `folder` where its files are."""

    id: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class SeedModels:
    """`upscaler` is None where a worker of this environment could not run it."""

    model: SeedModel
    upscaler: SeedModel | None


def install_seed_models(settings: Settings) -> SeedModels:
    """Install and register what ships."""
    root = settings.models_dir.absolute()
    folders = [install(folder, root) for folder in bundled_models()]
    if not folders:
        raise StackError("no model ships with this installation; install dreamforge again")
    url = settings.database_url.get_secret_value()
    seeds = [SeedModel(id=register(url, folder), folder=folder) for folder in folders]
    upscalers = [seed for seed in seeds[1:] if can_run_networks()]
    return SeedModels(model=seeds[0], upscaler=next(iter(upscalers), None))
