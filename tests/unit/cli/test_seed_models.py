"""The models that a stack begins with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cli.errors import StackError
from cli.stack import seed_models
from shared.settings import Settings


def test_what_ships_is_registered_and_the_upscaler_only_used_where_it_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[str] = []

    def register(_url: str, folder: Path) -> str:
        registered.append(folder.name)
        return f"id-{len(registered)}"

    monkeypatch.setattr(seed_models, "register", register)
    url = SimpleNamespace(get_secret_value=str)
    settings = cast(Settings, SimpleNamespace(models_dir=tmp_path, database_url=url))
    seeds = seed_models.install_seed_models(settings)
    assert registered == ["dreamforge-demo@1", "dreamforge-upscaler@1"]
    assert (seeds.model.id, seeds.model.folder.parent.name) == ("id-1", "sd")
    assert seeds.upscaler is not None
    assert (seeds.upscaler.id, seeds.upscaler.folder.parent.name) == ("id-2", "network")
    monkeypatch.setattr(seed_models, "can_run_networks", lambda: False)
    assert seed_models.install_seed_models(settings).upscaler is None


def test_an_installation_without_a_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_models, "bundled_models", list)
    settings = cast(Settings, SimpleNamespace(models_dir=tmp_path))
    with pytest.raises(StackError, match="no model ships with this installation"):
        seed_models.install_seed_models(settings)
