"""A model site, the hub that completes its checkpoints, and the command that speaks to both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import civitai, hub
from tests.support.civitai import Site
from tests.support.hub import Hub
from tests.support.model_downloads import SD1, Command

from cli.download import retry
from cli.main import run
from cli.models import availability
from cli.models.install import bundled_models


@pytest.fixture
def site() -> Iterator[Site]:
    with civitai.serving(Site(SD1)) as site:
        yield site


@pytest.fixture
def base() -> Iterator[Hub]:
    """A hub with the folder that an SD 1 checkpoint is completed from."""
    files = Hub.of(bundled_models()[0])
    del files.files["dreamforge.json"]
    files.repositories = ("stable-diffusion-v1-5/stable-diffusion-v1-5",)
    with hub.serving(files) as running:
        yield running


@pytest.fixture
def model(
    stack_environment: dict[str, str],
    site: Site,
    base: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("CIVITAI_ENDPOINT", site.url)
    monkeypatch.setenv("CIVITAI_TOKEN", site.key)
    monkeypatch.setenv("HF_ENDPOINT", base.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(availability, "WAIT_S", 0)
    return lambda *arguments: run(["model", *arguments])
