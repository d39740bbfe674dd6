"""The models that a stack begins with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cli.errors import StackError
from cli.stack import seed_models
from shared.settings import Settings


def test_an_installation_without_a_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed_models, "bundled_models", list)
    settings = cast(Settings, SimpleNamespace(models_dir=tmp_path))
    with pytest.raises(StackError, match="no model ships with this installation"):
        seed_models.install_seed_models(settings)
