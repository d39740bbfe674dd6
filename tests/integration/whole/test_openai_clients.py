"""The official clients of OpenAI, in Python and in JavaScript: the real API, worker and store."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import openai
import PIL.Image
import pytest
from openai import OpenAI
from PIL.Image import Image
from tests.support.api_and_worker import Scene, drawing
from tests.support.infrastructure import Infrastructure
from tests.support.node import run_node

pytestmark = pytest.mark.timeout(360)

SIZE = (64, 48)


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with drawing(stack, tmp_path_factory.mktemp("edits")) as running:
        anyio.run(running.api.ensure_bucket)
        yield running


@pytest.fixture(scope="module")
def client(scene: Scene) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{scene.api.base}/v1", api_key="none", max_retries=0) as client:
        yield client


def encoded(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def noise(seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def decoded(b64_json: str | None) -> Image:
    assert b64_json is not None
    return PIL.Image.open(io.BytesIO(base64.b64decode(b64_json)))


# Where it is transparent, the left half, the picture is painted anew; its colours mean nothing.
MASK = PIL.Image.new("RGBA", SIZE, (255, 255, 255, 255))
MASK.paste((0, 0, 0, 0), (0, 0, 32, 48))


@pytest.mark.slow
def test_the_transparent_part_of_a_mask_is_painted_anew_and_the_rest_stays(client: OpenAI) -> None:
    original = noise(1)

    def edit(**more: Any) -> Any:
        return client.images.with_raw_response.edit(
            image=encoded(original),
            mask=encoded(MASK),
            prompt="a red apple",
            n=2,
            user="1984",
            extra_body={"seed": 5, "strength": 0.5, "tags": {"order": "7"}},
            extra_headers={"Idempotency-Key": "edit-1"},
            **more,
        )

    raw = edit()
    before = np.asarray(original)
    made = [decoded(each.b64_json) for each in raw.parse().data]
    assert len(made) == 2
    for image in made:
        after = np.asarray(image)
        assert (after[:, 32:] == before[:, 32:]).all()
        assert (after[:, :32] != before[:, :32]).any()
    facts = json.loads(made[0].info["dreamforge"])
    assert [each["role"] for each in facts["inputs"]] == ["image", "alpha_mask"]
    assert (facts["seed"], facts["strength"]) == (5, 0.5)
    job = client.get(f"/jobs/{raw.headers['X-Job-Id']}", cast_to=object)
    assert isinstance(job, dict)
    assert job["tags"] == {"user": "1984", "order": "7"}
    # The same form is the same request, in whatever form its answer comes.
    again = edit(response_format="url")
    assert again.headers["X-Job-Id"] == raw.headers["X-Job-Id"]


@pytest.mark.slow
def test_a_picture_without_a_mask_is_painted_anew_and_streamed(client: OpenAI) -> None:
    events = list(
        client.images.edit(
            image=[("a.png", encoded(noise(2)))],  # sent as `image[]`
            prompt="a red apple",
            stream=True,
            output_format="jpeg",
            extra_body={"strength": 0.01, "seed": 1},
        )
    )
    (event,) = events
    assert (event.type, event.size, event.output_format) == (
        "image_edit.completed",
        "64x48",
        "jpeg",
    )
    assert decoded(event.b64_json).size == SIZE


def test_a_body_of_json_names_inputs(scene: Scene, client: OpenAI) -> None:
    sent = scene.api.client.post("/v1/inputs", files={"file": ("a", encoded(noise(3)))})
    body = {"prompt": "x", "images": [{"file_id": sent.json()["input"]["id"]}], "seed": 1}
    answer = client.post("/images/edits", body=body, cast_to=object)
    assert isinstance(answer, dict)
    assert decoded(answer["data"][0]["b64_json"]).size == SIZE


PICTURE = encoded(noise(4))


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"image": b"no picture"}, "image"),
        ({"image": PICTURE, "mask": encoded(MASK.resize((32, 32)))}, "mask"),
        ({"image": [PICTURE, encoded(noise(5))]}, "images"),  # no edit model is installed
        ({"image": PICTURE, "n": 11}, "n"),
        ({"image": PICTURE, "size": "1000x1001"}, "size"),
        ({"image": PICTURE, "input_fidelity": "high"}, "input_fidelity"),
        ({"image": PICTURE, "extra_body": {"mask_rule": "white"}}, "mask_rule"),
    ],
)
def test_what_we_cannot_do_is_an_error_that_names_it(
    client: OpenAI, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.images.edit(prompt="x", **arguments)
    assert raised.value.param == param
    assert param in raised.value.message


def test_a_mask_that_shows_all_fails_its_job_and_says_why(client: OpenAI) -> None:
    opaque = encoded(PIL.Image.new("RGB", SIZE))
    with pytest.raises(openai.InternalServerError) as raised:
        client.images.edit(image=PICTURE, mask=opaque, prompt="x")
    assert "nothing of it is transparent" in raised.value.message


@pytest.mark.slow
def test_the_client_in_javascript_does_all_of_it(scene: Scene, tmp_path: Path) -> None:
    original = noise(6)
    for name, data in (("image", encoded(original)), ("mask", encoded(MASK))):
        (tmp_path / name).write_bytes(data)
    paths = {name: str(tmp_path / name) for name in ("image", "mask")}
    got = run_node("openai.cjs", {"base": scene.api.base, **paths})

    assert [model["id"] for model in got["models"]] == ["tiny@1"]
    # The second call has the key of the first one, and gets its pictures.
    first, again = got["generate"]
    assert first == again
    assert [decoded(each).size for each in first["pictures"]] == [(64, 64)] * 2
    assert (first["size"], first["usage"]["pictures"]) == ("64x64", 2)
    job = scene.api.client.get(f"/v1/jobs/{first['job']}").json()
    assert (job["status"], job["request"]["seed"]) == ("succeeded", 7)

    assert (got["url"]["inline"], got["url"]["type"]) == (None, "image/jpeg")
    assert decoded(got["url"]["picture"]).format == "JPEG"
    for name, kind in (("streamed", "image_generation"), ("edits_streamed", "image_edit")):
        *partials, completed = got[name]
        assert {event["type"] for event in partials} <= {f"{kind}.partial_image"}
        assert len(partials) <= 2
        assert completed["type"] == f"{kind}.completed"
        assert decoded(completed["b64_json"]).format == "PNG"

    before, after = np.asarray(original), np.asarray(decoded(got["edit"]))
    assert (after[:, 32:] == before[:, 32:]).all()
    assert (after[:, :32] != before[:, :32]).any()

    errors = {name: error for name, error in got.items() if name.startswith("wrong_")}
    shown = {
        name: tuple(error[each] for each in ("name", "status", "code", "param", "type"))
        for name, error in errors.items()
    }
    refused = ("UnprocessableEntityError", 422)
    assert shown == {
        "wrong_size": (*refused, "invalid_input", "size", "invalid_request_error"),
        "wrong_model": (*refused, "model_unavailable", "model", "invalid_request_error"),
        "wrong_key": ("ConflictError", 409, "conflict", None, "invalid_request_error"),
        "wrong_image": (*refused, "invalid_input", "image", "invalid_request_error"),
    }
    assert all(error["requestID"] and error["message"] for error in errors.values())
