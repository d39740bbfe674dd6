"""What all tests of commands need."""

from __future__ import annotations

import pytest

from cli.download import model_download
from cli.models import fit


@pytest.fixture(autouse=True)
def _fit_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that imports torch, for each model that is installed. Most of them here are headers
    of a few tensors, which fit nothing; `test_a_downloaded_checkpoint_draws` has the real one."""
    monkeypatch.setattr(model_download, "refuse_misfit", lambda folder: None)
    monkeypatch.setattr(fit, "refuse_misfit", lambda folder: None)
    monkeypatch.setattr(model_download, "refuse_broken_esrgan", lambda file, scale: None)
