"""From a picture that a user sent to one that was made of it: the real API, worker and store."""

from __future__ import annotations

import hashlib
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
from PIL.Image import Image, Resampling
from tests.support.api_and_worker import Scene, drawing
from tests.support.api_harness import Api, until
from tests.support.infrastructure import Infrastructure

from cli.main import run

pytestmark = pytest.mark.timeout(240)

SIZE = (64, 48)


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with drawing(stack, tmp_path_factory.mktemp("pictures")) as running:
        anyio.run(running.api.ensure_bucket)
        yield running


@pytest.fixture
def api(scene: Scene) -> Api:
    return scene.api


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def encoded(image: Image, format: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def send(api: Api, data: bytes) -> str:
    answer = api.client.post("/v1/inputs", files={"file": ("a", data)})
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["input"]["id"])


def ended(api: Api, job: str) -> dict[str, Any]:
    until(lambda: api.client.get(f"/v1/jobs/{job}").json()["finished_at"], "the job ends", 120.0)
    shown: dict[str, Any] = api.client.get(f"/v1/jobs/{job}").json()
    return shown


def pictures(api: Api, job: str) -> list[tuple[dict[str, Any], Image]]:
    done = ended(api, job)
    assert done["status"] == "succeeded", done["error"]
    rows = api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
    return [(row, PIL.Image.open(io.BytesIO(httpx.get(row["url"]).content))) for row in rows]


def refusal(api: Api, **body: Any) -> str:
    answer = api.client.post("/v1/jobs", json={"type": "generate", "prompt": "x"} | body)
    assert answer.status_code == 422, answer.text
    return str(answer.json()["message"])


def test_unmasked_pixels_come_back_to_the_byte_in_every_picture_and_the_chain_goes_on(
    api: Api,
) -> None:
    original = noise(1)
    mask = PIL.Image.new("L", SIZE)
    mask.paste(255, (0, 0, 32, 48))
    image, painted = send(api, encoded(original)), send(api, encoded(mask))
    job = api.create(
        image=image,
        mask=painted,
        strength=0.5,
        seed=5,
        count=2,
        chain={"upscale": {"scale": 2, "impl": "resample"}},
    )
    first, second, large, _ = pictures(api, job)
    assert [row["seed"] for row, _ in (first, second)] == [5, 6]
    kept = np.asarray(original)[:, 32:]
    for row, made in (first, second):
        assert (row["width"], row["height"]) == SIZE
        assert (np.asarray(made)[:, 32:] == kept).all()
        assert (np.asarray(made)[:, :32] != np.asarray(original)[:, :32]).any()
    assert (np.asarray(first[1]) != np.asarray(second[1])).any()
    assert large[1].size == (128, 96)
    facts = json.loads(first[1].info["dreamforge"])
    assert facts["strength"] == 0.5
    assert [(each["role"], each["id"], each["sha256"]) for each in facts["inputs"]] == [
        ("image", image, hashlib.sha256(encoded(original)).hexdigest()),
        ("mask", painted, hashlib.sha256(encoded(mask)).hexdigest()),
    ]
    assert "Denoising strength: 0.5" in first[1].info["parameters"]
    # The same request makes the same bytes again, and another picture other ones.
    again = api.create(image=image, mask=painted, strength=0.5, seed=5)
    ((row, _),) = pictures(api, again)
    assert row["sha256"] != first[0]["sha256"]  # the job's id is in the file
    assert (np.asarray(pictures(api, again)[0][1]) == np.asarray(first[1])).all()


def test_an_artifact_is_an_input_too_until_its_job_is_deleted(api: Api) -> None:
    source = api.create(seed=1, format="webp", chain={"upscale": {"scale": 2, "impl": "resample"}})
    (row, made), (_, large) = pictures(api, source)
    assert (made.format, row["format"], row["s3_key"][-5:]) == ("WEBP", "webp", ".webp")
    assert httpx.get(row["url"]).headers["Content-Type"] == "image/webp"
    # Lossless, so that the second step had the pixels of the first.
    assert large.tobytes() == made.resize((128, 128), Resampling.LANCZOS).tobytes()
    job = api.create(image=row["id"], strength=0.01, seed=2)
    ((_, close),) = pictures(api, job)
    assert close.size == made.size
    (named,) = json.loads(close.info["dreamforge"])["inputs"]
    assert named["sha256"] == row["sha256"]
    # By its own name it is an input now, which says all that the picture says: it goes with it.
    ((_, again),) = pictures(api, api.create(image=named["id"], strength=0.01, seed=2))
    assert (np.asarray(again) == np.asarray(close)).all()
    assert api.client.delete(f"/v1/jobs/{source}").status_code == 204
    assert api.client.get(f"/v1/inputs/{named['id']}").status_code == 404
    ((_, kept),) = pictures(api, job)
    assert kept.size == close.size


def test_the_size_is_that_of_the_picture_as_it_is_looked_at_or_the_one_requested(api: Api) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = send(api, encoded(noise(2), "jpeg", exif=exif.tobytes()))
    ((row, _),) = pictures(api, api.create(image=turned, seed=1))
    assert (row["width"], row["height"]) == SIZE[::-1]
    ((row, _),) = pictures(api, api.create(image=turned, width=64, height=64, seed=1))
    assert (row["width"], row["height"]) == (64, 64)
    odd = send(api, encoded(noise(3, (100, 75))))
    assert "Ask for a size, such as 72x56" in refusal(api, image=odd)


def test_what_does_not_belong_together_or_is_not_there_is_refused_by_field(api: Api) -> None:
    image, other = send(api, encoded(noise(1))), send(api, encoded(noise(1, (48, 48))))
    assert refusal(api, image=image, mask=other).startswith("mask: it is 48x48 and image 64x48")
    assert refusal(api, mask=image).startswith("mask: it goes with a picture to start from")
    assert refusal(api, strength=0.5).startswith("strength: it goes with a picture")
    assert refusal(api, image=image, strength=0.0).startswith("strength: ")
    assert refusal(api, image=image, width=64).startswith("width: give height too")
    assert refusal(api, images=[image]).startswith("images: no model here can do that (edit)")
    gone = "00000000-0000-4000-8000-000000000000"
    assert refusal(api, image=gone).startswith("image: there is no such input or artifact")
    assert refusal(api, image="a name").startswith("image: ")


def test_a_picture_that_cannot_be_decoded_fails_its_job_by_name(api: Api) -> None:
    # Its head and its structure are those of a JPEG, and its data is not.
    data = encoded(noise(4), "png")
    at = data.index(b"IDAT") + 4
    broken = send(api, data[:at] + bytes(40) + data[at + 40 :])
    done = ended(api, api.create(image=broken))
    assert (done["status"], done["error"]["code"]) == ("failed", "provider_error")
    assert f"the input {broken} (image) cannot be decoded" in done["error"]["message"]


def test_an_input_can_be_deleted_once_its_job_has_ended(api: Api) -> None:
    image = send(api, encoded(noise(9)))
    ended(api, api.create(image=image))
    assert api.client.delete(f"/v1/inputs/{image}").status_code == 204
    assert "no such input" in refusal(api, image=image)


@pytest.mark.slow
def test_the_command_line_sends_files_and_a_picture_is_made_again_from_its_own_words(
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DF_API_BASE", api.base)
    monkeypatch.chdir(tmp_path)
    original, mask = noise(11), PIL.Image.new("L", SIZE)
    mask.paste(255, (0, 0, 64, 24))
    original.save("photo.webp", lossless=True)
    mask.save("mask.png")
    made_of = ["--image", "photo.webp", "--mask", "mask.png", "--strength", "0.8"]
    assert run(["generate", "a cat", *made_of, "--seed", "3"]) == 0
    made = np.asarray(PIL.Image.open("out/a-cat-3.png"))
    assert (made[24:] == np.asarray(original)[24:]).all()
    assert (made[:24] != np.asarray(original)[:24]).any()
    assert run(["inspect", "out/a-cat-3.png", "--rerun", "--out", "again"]) == 0
    assert "the same picture, pixel for pixel" in capsys.readouterr().err
    id = send(api, Path("photo.webp").read_bytes())
    assert run(["generate", "a cat", "--image", id, "--seed", "4"]) == 0
    assert run(["generate", "a cat", "--image", "missing.png"]) != 0
    assert "missing.png" in capsys.readouterr().err
