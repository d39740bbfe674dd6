"""`chain.upscale` from the request to the picture: the real API, worker, runners and store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.support import upscalers
from tests.support.api_harness import BODY, Api, running_api, until
from tests.support.database import migrate_and_empty
from tests.support.infrastructure import Infrastructure
from tests.support.tiny_model import register_tiny_model
from tests.support.worker_process import workers

from cli.main import run
from cli.models.install import register

pytestmark = pytest.mark.timeout(240)

RESAMPLE = {"upscale": {"scale": 2, "impl": "resample"}}


@pytest.fixture(scope="module")
def api(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with a tiny model and a worker of its own."""
    folder = tmp_path_factory.mktemp("chain")
    url = stack.environment["DF_DATABASE_URL"]
    migrate_and_empty(url)
    register_tiny_model(folder / "models", url)
    gan = folder / "models/esrgan/tiny-gan@1"
    upscalers.esrgan(gan, scale=4)
    register(url, gan)
    for name, network in (("tiny-network", "DnCNN"), ("broken", "DnCNN")):
        place = folder / f"models/network/{name}@1"
        upscalers.network(place, network, name=name, broken=name == "broken")
        register(url, place)
    ours = {"DF_MODELS_DIR": str(folder / "models"), "DF_DEVICE": "cpu", "DF_DRAIN_S": "0"}
    ours["DF_RUNNER_START"] = "template"  # the second step of a model costs no import
    with workers(folder, dict(stack.environment) | ours) as start:
        start()
        with running_api(stack.environment) as running:
            yield running


def finished(api: Api, job: str) -> dict[str, Any]:
    """The job once it has ended."""
    until(lambda: api.client.get(f"/v1/jobs/{job}").json()["finished_at"], "the job ends", 120.0)
    found: dict[str, Any] = api.client.get(f"/v1/jobs/{job}").json()
    return found


def pictures(api: Api, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    return found


def opened(artifact: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(httpx.get(artifact["url"]).content))


def test_a_batch_is_made_and_then_enlarged(api: Api) -> None:
    job = api.create(chain=RESAMPLE, seed=5, count=2)
    # Where it is in the queue has no number: it is no event of the job.
    events = [event for event in stream(api, job) if "seq" in event]
    done = finished(api, job)
    assert (done["status"], done["summary"]) == ("succeeded", {"count": 2, "completed": 2})
    assert [(s["name"], s["type"], s["status"]) for s in done["steps"]] == [
        ("generate", "generate", "succeeded"),
        ("upscale", "upscale", "succeeded"),
    ]
    found = pictures(api, job)
    assert [(a["step"], a["item_index"], a["seed"], a["width"], a["height"]) for a in found] == [
        ("generate", 0, 5, 64, 64),
        ("generate", 1, 6, 64, 64),
        ("upscale", 0, 5, 128, 128),
        ("upscale", 1, 6, 128, 128),
    ]
    assert all(f"/jobs/{job}/{a['step']}/" in a["s3_key"] for a in found)
    small, large = opened(found[1]), opened(found[3])
    assert large.tobytes() == small.resize((128, 128), Image.Resampling.LANCZOS).tobytes()
    told = json.loads(large.info["dreamforge"])
    assert (told["step"], told["input"]["sha256"]) == ("upscale", found[1]["sha256"])
    assert large.info["parameters"].startswith(small.info["parameters"])
    check_stream(events)
    stages = api.client.get(f"/v1/jobs/{job}/progress").json()
    assert {stage["step"] for stage in stages["stages"]} == {"generate", "upscale"}
    assert sum(stage["weight"] for stage in stages["stages"]) == pytest.approx(1)
    assert stages["progress"] == 1.0
    assert [item["progress"] for item in stages["items"]] == [1.0, 1.0]


def stream(api: Api, job: str) -> list[dict[str, Any]]:
    """Every event of the job, to the end of its stream."""
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream", timeout=120) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def check_stream(events: list[dict[str, Any]]) -> None:
    """One stream over both steps: no gap, never back, half of it after the first step."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    shown = [float(e["payload"]["progress"]) for e in events if e["code"] == "progress"]
    assert shown == sorted(shown) and shown[-1] == 1.0
    starts = [i for i, event in enumerate(events) if event["code"] == "step.start"]
    assert len(starts) == 2
    before = [e["payload"]["progress"] for e in events[: starts[1]] if e["code"] == "progress"]
    assert max(before) <= 0.5
    written = [e["payload"]["step"] for e in events if e["code"] == "artifact.written"]
    assert written == ["generate"] * 2 + ["upscale"] * 2


def test_auto_takes_the_gan_that_there_is_and_says_what_it_did_to_its_scale(api: Api) -> None:
    job = api.create(chain={"upscale": {"scale": 2}}, seed=5)
    done = finished(api, job)
    assert done["status"] == "succeeded", done["error"]
    (large,) = [opened(each) for each in pictures(api, job) if each["step"] == "upscale"]
    assert large.size == (128, 128)
    told = json.loads(large.info["dreamforge"])["upscale"]
    assert (told["impl"], told["model"]["name"]) == ("gan", "tiny-gan")
    assert (told["scale"], told["native_width"]) == (2, 256)
    lines = api.client.get(f"/v1/jobs/{job}/logs").text.splitlines()
    said = [entry["message"] for entry in map(json.loads, lines) if entry["code"] == "runner.log"]
    assert "the upscaler made 256x256; resampled to 128x128" in said[0]
    models = {model["name"]: model for model in api.client.get("/v1/models").json()["models"]}
    assert models["tiny-gan"]["capabilities"] == ["upscale"]


@pytest.mark.slow
def test_a_network_that_restores_is_taken_by_name_and_its_result_resampled(api: Api) -> None:
    named = {"upscale": {"scale": 2, "model_id": "tiny-network"}}
    job = api.create(chain=named, seed=5)
    done = finished(api, job)
    assert done["status"] == "succeeded", done["error"]
    (large,) = [opened(each) for each in pictures(api, job) if each["step"] == "upscale"]
    assert large.size == (128, 128)
    told = json.loads(large.info["dreamforge"])["upscale"]
    assert (told["impl"], told["native_width"]) == ("gan", 64)
    named["upscale"]["strict_scale"] = True
    refused = api.client.post("/v1/jobs", json=BODY | {"chain": named})
    assert refused.status_code == 422
    assert "restores and does not enlarge" in refused.json()["message"]


def test_an_upscaler_that_makes_no_colours_fails_the_job_and_says_what_to_do(api: Api) -> None:
    job = api.create(chain={"upscale": {"scale": 2, "model_id": "broken"}}, seed=5)
    done = finished(api, job)
    assert (done["status"], done["error"]["code"]) == ("failed", "provider_error")
    assert "no colours (NaN or infinite)" in done["error"]["message"]
    assert "float32 reach further than float16" in done["error"]["message"]
    assert [each["step"] for each in pictures(api, job)] == ["generate"]


def test_the_command_line_makes_one_and_saves_only_the_large_picture(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DF_API_BASE", api.base)
    monkeypatch.chdir(tmp_path)
    command = ["job", "create", "a cat", "--upscale", "2", "--upscale-impl", "resample"]
    assert run([*command, "--format", "jpg", "--no-metadata", "--download", "out"]) == 0
    (saved,) = (tmp_path / "out").iterdir()
    with Image.open(saved) as picture:
        assert (picture.format, picture.size) == ("JPEG", (128, 128))
        assert not picture.getexif()


@pytest.mark.slow
def test_an_enlarged_item_of_a_batch_is_made_again_from_its_file(
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DF_API_BASE", api.base)
    monkeypatch.chdir(tmp_path)
    command = ["job", "create", "a cat", "--upscale", "2", "--upscale-impl", "resample"]
    batch = ["--count", "2", "--seed", "8", "--format", "jpg", "--download", "out"]
    assert run([*command, *batch]) == 0
    assert run(["inspect", "out/a-cat-9.jpg", "--rerun", "--out", "again"]) == 0
    assert "the same picture, pixel for pixel" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["a-cat-9.jpg"]


def test_a_cancel_while_the_first_step_runs_ends_both(api: Api) -> None:
    job = api.create(chain=RESAMPLE, count=100, steps=50)
    until(lambda: bool(pictures(api, job)), "a first picture", 60.0)
    api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    done = finished(api, job)
    assert [step["status"] for step in done["steps"]] == ["cancelled", "cancelled"]
    assert (done["status"], done["summary"]["completed"]) == ("cancelled", 0)
    assert {artifact["step"] for artifact in pictures(api, job)} == {"generate"}


def test_a_failure_of_the_first_step_says_why_the_second_never_began(api: Api) -> None:
    job = api.create(chain=RESAMPLE, count=100, steps=50, timeout_s=1)
    done = finished(api, job)
    assert [(step["status"], step["reason"]) for step in done["steps"]] == [
        ("failed", "timeout"),
        ("cancelled", "cancelled"),
    ]
    lines = api.client.get(f"/v1/jobs/{job}/logs").text.splitlines()
    said = [entry["message"] for entry in map(json.loads, lines) if entry["code"] == "step.finish"]
    assert "step upscale: cancelled because step generate failed" in said


def test_what_is_not_available_or_too_large_is_refused_and_leaves_nothing(api: Api) -> None:
    ((before,),) = api.sql("SELECT count(*) FROM jobs")
    for chain, field in (
        ({"scale": 2, "impl": "diffusion"}, "available: resample, gan"),
        ({"scale": 2, "strict_scale": True}, "tiny-gan@1 (4)"),
        ({"scale": 2, "model_id": "tiny"}, "these can: broken@1, tiny-gan@1, tiny-network@1"),
        ({"scale": 3, "impl": "resample"}, "chain.upscale.scale"),
    ):
        answer = api.client.post(
            "/v1/jobs", json={"type": "generate", "prompt": "x", "chain": {"upscale": chain}}
        )
        assert answer.status_code == 422, answer.text
        assert field in answer.text
    assert api.sql("SELECT count(*) FROM jobs") == [(before,)]
