"""A LoRA on the demo model, from an import to a picture: the real API, worker and store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file
from tests.support.api_harness import Api, running_api, until
from tests.support.database import migrate_and_empty
from tests.support.infrastructure import Infrastructure
from tests.support.loras import Pairs, diffusers, kohya, write
from tests.support.loras import install as install_lora
from tests.support.worker_process import Worker, workers

from cli.main import run
from cli.models.install import bundled_models, install, register
from shared.models.folder import ONE_FILE

pytestmark = pytest.mark.timeout(300)

DEMO = "dreamforge-demo"
SMALL = {"prompt": "red apple", "steps": 2, "seed": 5, "model_id": DEMO}
HIT = 'dreamforge_warm_starts_total{result="hit"}'


@pytest.fixture(scope="module")
def models(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model on this host; of LoRAs not even their folder."""
    root = tmp_path_factory.mktemp("loras") / "models"
    migrate_and_empty(stack.environment["DF_DATABASE_URL"])
    register(stack.environment["DF_DATABASE_URL"], install(bundled_models()[0], root))
    return root


@pytest.fixture(scope="module")
def api(stack: Infrastructure, models: Path) -> Iterator[Api]:
    with running_api(stack.environment) as running:
        anyio.run(running.ensure_bucket)
        yield running


@pytest.fixture(scope="module")
def worker(stack: Infrastructure, models: Path, api: Api) -> Iterator[Worker]:
    """A worker that forks its runners from templates."""
    here = {"DF_MODELS_DIR": str(models), "DF_DEVICE": "cpu", "DF_DRAIN_S": "0"}
    settings = stack.environment | here | {"DF_RUNNER_START": "template"}
    with workers(models.parent / "worker", settings) as start:
        yield start()


@pytest.fixture
def cli(
    stack: Infrastructure,
    models: Path,
    api: Api,
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command line of this host, in a folder of its own."""
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(models))
    monkeypatch.setenv("DF_API_BASE", api.base)
    monkeypatch.chdir(tmp_path)


def demo_pairs(seed: int = 1) -> Pairs:
    """A pair for every layer of the demo model's attention."""
    shapes = load_file(bundled_models()[0] / "unet/diffusion_pytorch_model.safetensors")
    numbers = np.random.default_rng(seed)
    pairs = {}
    for name, weight in shapes.items():
        layer = name.removesuffix(".weight")
        if "attn" in layer and layer != name and weight.ndim == 2 and "norm" not in layer:
            out, into = weight.shape
            halves = (numbers.standard_normal(each) for each in ((2, into), (out, 2)))
            down, up = (0.3 * half.astype(np.float32) for half in halves)
            pairs["unet", layer] = down, up
    assert pairs
    return pairs


def draw(api: Api, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """The pixels of one picture, and the texts of its file."""
    job = api.create(**(SMALL | changes))
    until(lambda: api.client.get(f"/v1/jobs/{job}").json()["finished_at"], "the job ends", 120.0)
    done = api.client.get(f"/v1/jobs/{job}").json()
    assert done["status"] == "succeeded", done["error"]
    (row,) = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    image = PIL.Image.open(io.BytesIO(httpx.get(row["url"]).content))
    return np.asarray(image), {str(name): text for name, text in image.info.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("cli")
def test_a_lora_changes_its_job_alone_in_both_ways_to_start_a_runner(
    stack: Infrastructure,
    api: Api,
    worker: Worker,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, texts = draw(api)
    assert "loras" not in json.loads(texts["dreamforge"])
    assert "Lora hashes" not in texts["parameters"]
    worker.until(lambda: api.client.get(f"/v1/models/{DEMO}").json()["warm"], "the model is warm")
    # The template was made while this host had no place for LoRAs.
    assert not (models / "lora").exists()
    bring_loras(stack, models, tmp_path)
    shown = api.client.get("/v1/models/kohya").json()
    assert (shown["kind"], shown["family"], shown["capabilities"]) == ("lora", "sd", [])
    assert shown["installed"]
    rules = api.client.get(f"/v1/models/{DEMO}").json()["parameters_schema"]["properties"]
    assert rules["loras"]["maxItems"] == 8

    lora = [{"model_id": "kohya", "scale": 0.8}]
    changed, texts = draw(api, loras=lora)
    assert (changed != plain).any()
    (fact,) = json.loads(texts["dreamforge"])["loras"]
    assert (fact["name"], fact["version"], fact["scale"]) == ("kohya", "1", 0.8)
    assert fact["checkpoint_sha256"] == shown["checkpoint_sha256"]
    assert texts["parameters"].startswith("red apple <lora:kohya:0.8>\n")
    assert f'Lora hashes: "kohya: {fact["data_sha256"][:12]}"' in texts["parameters"]

    # From a template that was made since, too; and the template is as it was.
    worker.until(lambda: api.client.get(f"/v1/models/{DEMO}").json()["warm"], "it is warm again")
    hits = worker.metric(HIT)
    assert (draw(api, loras=[{"model_id": "diffusers", "scale": 0.8}])[0] == changed).all()
    zero = [{"model_id": "kohya", "scale": 0}, {"model_id": "diffusers", "scale": 0}]
    again, texts = draw(api, loras=zero)
    assert (again == plain).all()
    assert "<lora:kohya:0> <lora:diffusers:0>" in texts["parameters"]
    assert (draw(api)[0] == plain).all()
    assert worker.metric(HIT) == hits + 3

    # The command line: the same job, and once more from the file that it made.
    capsys.readouterr()
    facts = ["--model", DEMO, "--steps", "2", "--seed", "5"]
    assert run(["generate", "red apple", "--lora", "kohya:0.8", *facts]) == 0
    assert (np.asarray(PIL.Image.open("out/red-apple-5.png")) == changed).all()
    assert run(["inspect", "out/red-apple-5.png", "--rerun", "--out", "again"]) == 0
    assert "the same picture, pixel for pixel" in capsys.readouterr().err
    assert run(["inspect", "out/red-apple-5.png"]) == 0
    assert "kohya@1, scale 0.8" in capsys.readouterr().out

    # What only the weights show fails when they are loaded, and names the layer.
    job = api.create(**SMALL, loras=[{"model_id": "foreign"}])
    until(lambda: api.client.get(f"/v1/jobs/{job}").json()["finished_at"], "it ends", 120.0)
    error = api.client.get(f"/v1/jobs/{job}").json()["error"]
    assert error["code"] == "model_unavailable"
    assert "up_blocks_7_absent" in error["message"]

    worker.stop()
    here = {"DF_MODELS_DIR": str(models), "DF_DEVICE": "cpu", "DF_DRAIN_S": "0"}
    with workers(tmp_path / "worker", stack.environment | here) as start:
        start(DF_RUNNER_START="spawn").wait_ready()
        assert (draw(api, loras=lora)[0] == changed).all()
        assert (draw(api)[0] == plain).all()


def bring_loras(stack: Infrastructure, models: Path, tmp_path: Path) -> None:
    """LoRAs in both forms and one that does not fit: the last one by the command line, which waits
    until the worker has them all."""
    pairs = demo_pairs()
    foreign = {**pairs, ("unet", "up_blocks.7.absent"): next(iter(pairs.values()))}
    for name, tensors in (("diffusers", diffusers(pairs)), ("foreign", kohya(foreign))):
        install_lora(models, name, tensors)
        register(stack.environment["DF_DATABASE_URL"], models / "lora" / f"{name}@1")
    path = write(tmp_path / "kohya", kohya(pairs)) / ONE_FILE
    assert run(["model", "import", str(path), "--name", "kohya", "--version", "1"]) == 0
    assert run(["model", "verify"]) == 0
