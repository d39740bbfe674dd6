"""Which models a worker reports, while users change them. A real registry and disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from tests.support.api_harness import Api, running_api
from tests.support.database import execute
from tests.support.gates import Gates
from tests.support.worker_process import workers

from cli.models.install import bundled_models, install, register
from shared.db.engine import Database
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.verify import read_model, write_descriptor
from shared.step_store import PinnedModel
from supervisor.membership.local_models import LocalModels

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"

Look = Callable[[], Awaitable[bool]]


def altered(root: Path, name: str) -> Path:
    """The demo model with other bytes in one file, described anew under the same name."""
    folder = root / f"altered-{Path(name).stem}"
    shutil.copytree(bundled_models()[0], folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1 if name.endswith(".safetensors") else ord("\n") ^ ord(" ")
    (folder / name).write_bytes(content)
    old = read_model(folder)
    write_descriptor(
        folder,
        describe_folder(
            folder, DescriptorInput(name=old.name, version=old.version, source=old.source)
        ),
    )
    return folder


@pytest.fixture
def root(database_url: str, tmp_path: Path) -> Path:
    """A models folder with one registered model."""
    register(database_url, install(bundled_models()[0], tmp_path / "models"))
    return tmp_path / "models"


def play(url: str, root: Path, test: Callable[[LocalModels], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database(url)
        try:
            await test(LocalModels(database, root))
        finally:
            await database.close()

    anyio.run(main)


async def changes(models: LocalModels) -> bool:
    """Refresh; whether what this host can run has changed."""
    before = models.checksums
    await models.refresh()
    return models.checksums != before


def enable(url: str, enabled: bool) -> None:
    execute(url, "UPDATE models SET enabled = %s", enabled)


def place(root: Path) -> Path:
    (folder,) = (root / "sd").iterdir()
    return folder


def test_a_model_that_is_registered_and_here_can_run(database_url: str, root: Path) -> None:
    async def test(models: LocalModels) -> None:
        assert await changes(models)
        assert list(models.checksums.values()) == [read_model(place(root)).checkpoint_sha256]
        assert not await changes(models)

    play(database_url, root, test)


def test_a_disabled_model_is_not_run_but_its_folder_is_still_known(
    database_url: str, root: Path
) -> None:
    """A step may have been claimed just before: its driver asks for the folder just after."""
    model = read_model(place(root))

    async def test(models: LocalModels) -> None:
        await models.refresh()
        (model_id,) = models.checksums
        enable(database_url, enabled=False)
        assert await changes(models)
        assert models.checksums == {}
        pinned = PinnedModel(
            id=model_id,
            name=model.name,
            version=model.version,
            kind=model.kind,
            checkpoint_sha256=model.checkpoint_sha256,
        )
        assert models.folder(pinned) == place(root)
        enable(database_url, enabled=True)
        assert await changes(models)

    play(database_url, root, test)


@pytest.mark.parametrize("damage", ["gone", "a file gone", "cut short", "unreadable as a model"])
def test_a_folder_that_was_damaged_since_it_was_verified_is_offered_no_more(
    database_url: str, root: Path, damage: str
) -> None:
    async def test(models: LocalModels) -> None:
        await models.refresh()
        match damage:
            case "gone":
                shutil.rmtree(place(root))
            case "a file gone":
                (place(root) / SCHEDULER).unlink()
            case "cut short":
                with (place(root) / WEIGHTS).open("r+b") as file:
                    file.truncate(100)
            case _:
                (place(root) / "round.json").symlink_to("round.json")
        assert await changes(models)
        assert models.checksums == {}
        shutil.rmtree(root)
        install(bundled_models()[0], root)
        assert await changes(models)
        assert len(models.checksums) == 1

    play(database_url, root, test)


def test_what_is_wrong_with_a_folder_is_said_once(
    database_url: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(models: LocalModels) -> None:
        (place(root) / SCHEDULER).unlink()
        with caplog.at_level(logging.WARNING):
            await models.refresh()
            await models.refresh()
        warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "scheduler/: missing" in warnings[0]

    play(database_url, root, test)


def test_a_file_that_is_not_the_registered_one_keeps_a_model_from_running(
    database_url: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are the same, so the checkpoint's hash says nothing."""
    other = altered(tmp_path, SCHEDULER)

    async def test(models: LocalModels) -> None:
        await models.refresh()
        await anyio.to_thread.run_sync(install, other, root)
        await models.refresh()
        assert models.checksums == {}
        assert f"{SCHEDULER}: not the one that is registered" in caplog.text

    play(database_url, root, test)
    register(database_url, place(root))

    async def again(models: LocalModels) -> None:
        assert await changes(models)

    play(database_url, root, again)


# Under a living worker ----------------------------------------------------------------------------


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        anyio.run(running.ensure_bucket)
        yield running


@pytest.mark.slow
def test_a_worker_outlives_a_model_that_goes_while_its_step_is_being_claimed(
    api: Api, stack_environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    gates = Gates(tmp_path)
    settings = stack_environment | {"DF_DEVICE": "cpu", "DF_MODELS_DIR": str(root)}
    settings |= {"TMPDIR": str(tmp_path)}
    module = "tests.support.gated_worker"
    with workers(tmp_path / "worker", settings, module=module) as start:
        worker = start()
        worker.wait_ready()
        gates.arm("claimed")
        job = api.create(seed=1)
        worker.until(lambda: gates.is_reached("claimed"), "the step is claimed")
        enable(stack_environment["DF_DATABASE_URL"], enabled=False)
        worker.until(
            lambda: api.sql("SELECT models FROM workers") == [([],)], "the worker has seen it"
        )
        gates.open("claimed")
        worker.until(lambda: _status(api, job) == "succeeded", "the job ends")


def test_a_job_whose_checkpoint_was_replaced_ends_model_unavailable(
    api: Api, stack_environment: dict[str, str], root: Path, tmp_path: Path
) -> None:
    settings = stack_environment | {"DF_DEVICE": "cpu", "DF_MODELS_DIR": str(root)}
    with workers(tmp_path / "worker", settings) as start:
        job = api.create(seed=1)
        register(stack_environment["DF_DATABASE_URL"], install(altered(tmp_path, WEIGHTS), root))
        worker = start()
        worker.until(lambda: _status(api, job) == "failed", "the job ends")
    error = api.client.get(f"/v1/jobs/{job}").json()["error"]
    assert error["code"] == "model_unavailable"
    assert "another checkpoint is installed" in error["message"]


def _status(api: Api, job: str) -> str:
    return str(api.client.get(f"/v1/jobs/{job}").json()["status"])
