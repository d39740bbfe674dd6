"""A model that is exchanged while it is being loaded is not loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.runner_peer import run_spec

from cli.models.install import bundled_models
from cli.models.store import install_atomic, remove_model
from runner.diffusion.model_folder import guard_unchanged
from runner.ipc.inputs import Inputs
from runner.ipc.previews import PreviewRequests
from runner.job_types import generate, host_models, upscale
from runner.job_types.base import Context
from runner.process.cancellation import Cancelled, Stop
from shared.errors import ModelUnavailable
from shared.protocol.messages import GanParams, InputSpec, StepSpec, UpscaleSpec

REPLACED = "replaced or removed while it was being loaded"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "models/sd/demo@1"
    shutil.copytree(bundled_models()[0], folder)
    return folder


@pytest.fixture
def exchange(tmp_path: Path, place: Path) -> Callable[..., None]:
    """What `dreamforge model import` does when the model is there already."""
    draft = tmp_path / "draft"
    shutil.copytree(bundled_models()[0], draft)
    return lambda *_, **__: install_atomic(draft, place)


def test_a_folder_that_stays_is_loaded(place: Path) -> None:
    with guard_unchanged(place):
        (place / "README.md").read_bytes()


def test_a_load_of_half_one_model_and_half_another_is_refused(
    place: Path, exchange: Callable[..., None]
) -> None:
    with pytest.raises(ModelUnavailable, match=REPLACED), guard_unchanged(place):
        exchange()


def test_what_fails_because_the_model_went_away_is_model_unavailable(place: Path) -> None:
    with pytest.raises(ModelUnavailable, match=REPLACED), guard_unchanged(place):
        remove_model(place, place.parents[1])
        (place / "README.md").read_bytes()


@pytest.mark.parametrize("error", [OSError("the disk"), ValueError("a shape")])
def test_what_fails_by_itself_keeps_its_own_words(place: Path, error: Exception) -> None:
    with pytest.raises(type(error)), guard_unchanged(place):
        raise error


def test_a_cancel_stays_one(place: Path, exchange: Callable[..., None]) -> None:
    with pytest.raises(Cancelled), guard_unchanged(place):
        exchange()
        raise Cancelled


def test_a_generation_does_not_start_with_a_model_that_was_replaced(
    place: Path, exchange: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(host_models.LOADERS, "generate", exchange)
    with pytest.raises(ModelUnavailable, match=REPLACED):
        generate.Generate().prepare(_context(run_spec(place)))


def test_an_upscale_does_not_start_with_a_model_that_was_replaced(
    place: Path, exchange: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(host_models.LOADERS, "gan", exchange)
    given = run_spec(place)
    spec = UpscaleSpec(
        job_id="job-1",
        step_id="step-1",
        step_name="upscale",
        preset=given.preset,
        model=given.model,
        params=GanParams(scale=2, native_scale=2, count=1),
        inputs=[InputSpec(item_index=0, format="png", width=1, height=1, seed=1, sha256="0" * 64)],
    )
    with pytest.raises(ModelUnavailable, match=REPLACED):
        upscale.Upscale().prepare(_context(spec))


def _context(spec: StepSpec) -> Context[Any]:
    stop = Stop()
    return Context(
        spec=spec,
        emit=lambda *_: None,
        stop=stop,
        versions={},
        inputs=Inputs(spec, lambda *_: None, stop),
        previews=PreviewRequests(),
    )
