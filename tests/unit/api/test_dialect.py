"""OpenAI's words for a job, and pictures in an answer: translated, refused by name, bounded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.dialect.answers import Pictures
from api.dialect.bodies import completed_events, json_body
from api.dialect.partials import Partials
from api.dialect.pictures import RANGE_BYTES
from api.dialect.request import (
    GenerateImages,
    OwnFields,
    in_their_words,
    job_of,
    needs_steps,
    of_pictures,
)
from api.schemas.requests import CreateJob
from api.streaming.previews import Previews
from shared.db.artifacts import Artifact
from shared.db.jobs import Job
from shared.dispatch.preview_channel import ShownPreview
from shared.errors import DreamForgeError, InfraUnavailable, InvalidInput, NotFound
from shared.states import Reason, Status

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
APPLE = {"prompt": "a red apple"}


def translate(default_steps: int | None = None, **body: Any) -> dict[str, Any]:
    """What of the job is set besides type and prompt."""
    job = job_of(GenerateImages.model_validate(APPLE | body), default_steps)
    set_fields = job.model_dump(mode="json", exclude_unset=True)
    assert set_fields.pop("type") == "generate"
    assert set_fields.pop("prompt") == "a red apple"
    return set_fields


@pytest.mark.parametrize(
    ("body", "job"),
    [
        ({}, {}),
        ({"model": "sd@1", "n": 2}, {"model_id": "sd@1", "count": 2}),
        ({"n": None, "size": None, "model": None, "output_format": None, "quality": None}, {}),
        ({"size": "auto", "quality": "auto", "background": "auto", "partial_images": 0}, {}),
        ({"size": "1024x768"}, {"width": 1024, "height": 768}),
        ({"output_format": "png", "output_compression": 100}, {"format": "png"}),
        (
            {"output_format": "jpeg", "output_compression": 0},
            {"format": "jpg", "jpeg_quality": 1},
        ),
        ({"stream": True, "partial_images": 3, "response_format": "b64_json"}, {}),
        ({"quality": "standard"}, {}),
        ({"user": "ada"}, {"tags": {"user": "ada"}}),
        (
            {"user": "ada", "safety_identifier": "a1", "tags": {"x": "y"}},
            {"tags": {"x": "y", "user": "a1"}},
        ),
        ({"user": "", "tags": {"user": "own"}}, {"tags": {"user": "own"}}),
        (
            {"seed": 7, "steps": 4, "chain": {"upscale": {"scale": 2, "impl": "resample"}}},
            {"seed": 7, "steps": 4, "chain": {"upscale": {"scale": 2, "impl": "resample"}}},
        ),
    ],
)
def test_a_request_becomes_the_job_that_it_means(body: dict[str, Any], job: dict[str, Any]) -> None:
    assert translate(**body) == job


def test_every_field_of_ours_has_a_name_in_the_dialect() -> None:
    translated = {"prompt", "type", "model_id", "count", "width", "height", "format"}
    translated |= {"jpeg_quality", "webp_quality"}
    assert set(OwnFields.model_fields) == set(CreateJob.model_fields) - translated


@pytest.mark.parametrize(("quality", "steps"), [("low", 10), ("high", 31), ("hd", 31)])
def test_quality_sets_the_steps_by_those_of_the_model(quality: str, steps: int) -> None:
    body = GenerateImages.model_validate(APPLE | {"quality": quality})
    assert needs_steps(body)
    assert job_of(body, 21).steps == steps
    assert job_of(body, 1).steps == 1  # of a model that draws in one step


def refusal(**body: Any) -> str:
    """The first field that is refused."""
    try:
        asked = GenerateImages.model_validate(APPLE | body)
        needs_steps(asked)
        job_of(asked, None)
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    except RequestValidationError as error:
        return str(error.errors()[0]["loc"][1])
    except InvalidInput as error:
        return str(error.details["field"])
    raise AssertionError(f"{body} was not refused")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "1024"}, "size"),
        ({"size": "1024x1024x1024"}, "size"),
        ({"size": "1001x1024"}, "size"),
        ({"size": "1024x9000"}, "size"),
        ({"quality": "max"}, "quality"),
        ({"quality": "high", "steps": 4}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"output_format": "png", "output_compression": 99}, "output_compression"),
        ({"partial_images": 1}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"stream": True, "response_format": "url"}, "response_format"),
        ({"user": "ada", "tags": {"user": "eve"}}, "user"),
        ({"moderation": "low"}, "moderation"),
        ({"style": "vivid"}, "style"),
        ({"frame_count": 2}, "frame_count"),
        ({"width": 64}, "width"),  # it is `size` here
        ({"count": 2}, "count"),
        ({"type": "generate"}, "type"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    assert refusal(**body) == field


def test_the_form_of_an_answer_is_no_part_of_a_repeated_request() -> None:
    one = of_pictures(APPLE | {"stream": True, "partial_images": 2})
    assert one == of_pictures(APPLE | {"response_format": "url"}) == APPLE
    assert one != of_pictures(APPLE | {"n": 2})


@pytest.mark.parametrize(
    ("ours", "theirs", "field"),
    [
        ("width: 640 is over the maximum 512", "size: width 640 is over the maximum 512", "size"),
        ("model_id: no such model", "model: no such model", "model"),
        ("steps: 300 are too many", "steps: 300 are too many", "steps"),
    ],
)
def test_a_refusal_by_the_model_has_the_names_that_the_client_knows(
    ours: str, theirs: str, field: str
) -> None:
    error: DreamForgeError = InvalidInput(ours, field=ours.partition(":")[0])
    translated = in_their_words(error)
    assert (translated.message, translated.details["field"]) == (theirs, field)
    assert translated.details["errors"][0]["field"] == field


# Pictures -----------------------------------------------------------------------------------------


class Objects:
    """A store in memory."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {str(index): data for index, data in enumerate(contents)}

    async def get_range(self, key: str, *, offset: int, size: int) -> bytes | None:
        data = self.contents.get(key)
        return None if data is None else data[offset : offset + size]


def pictures_of(*contents: bytes) -> Pictures:
    job_id, step_id = uuid4(), uuid4()
    return Pictures(
        job=Job(
            id=job_id,
            type="generate",
            user="default",
            priority="normal",
            status=Status.SUCCEEDED,
            reason=Reason.COMPLETED,
            error=None,
            count=len(contents),
            completed=len(contents),
            event_seq=9,
            created_at=NOW,
            updated_at=NOW,
            finished_at=NOW,
            cancel_requested_at=None,
            tags={},
        ),
        artifacts=[
            Artifact(
                id=uuid4(),
                job_id=job_id,
                step_id=step_id,
                step="generate",
                created_at=NOW,
                item_index=index,
                format="jpg",
                width=64,
                height=48,
                seed=40 + index,
                s3_key=str(index),
                sha256=hashlib.sha256(data).hexdigest(),
                size_bytes=len(data),
            )
            for index, data in enumerate(contents)
        ],
        run_seconds=3.0,
    )


def collect(parts: AsyncGenerator[bytes]) -> list[bytes]:
    async def main() -> list[bytes]:
        return [part async for part in parts]

    return anyio.run(main)


BODY = GenerateImages.model_validate(APPLE | {"quality": "low"})
LARGE = bytes(range(256)) * (2 * RANGE_BYTES // 256) + b"x"
SMALL = b"\xff\xd8 a picture"


def test_an_answer_has_its_pictures_and_no_part_of_it_is_large() -> None:
    pictures = pictures_of(LARGE, SMALL)
    parts = collect(json_body(pictures, BODY, Objects(LARGE, SMALL)))
    assert max(map(len, parts)) < RANGE_BYTES // 3 * 4 + 1000
    answer = json.loads(b"".join(parts))
    assert [base64.b64decode(each.pop("b64_json")) for each in answer["data"]] == [LARGE, SMALL]
    assert answer == {
        "created": int(NOW.timestamp()),
        "background": "opaque",
        "output_format": "jpeg",
        "quality": "low",
        "size": "64x48",
        "usage": answer["usage"],
        "data": [{"seed": 40}, {"seed": 41}],
    }
    usage = answer["usage"]
    assert (usage["total_tokens"], usage["pictures"], usage["run_seconds"]) == (0, 2, 3.0)


def test_a_stream_has_an_event_for_each_picture() -> None:
    pictures = pictures_of(LARGE, SMALL)
    parts = collect(completed_events(pictures, BODY, Objects(LARGE, SMALL), "image_edit.completed"))
    assert max(map(len, parts)) < RANGE_BYTES // 3 * 4 + 1000
    events = b"".join(parts).decode().removesuffix("\n\n").split("\n\n")
    for event, picture in zip(events, (LARGE, SMALL), strict=True):
        name, data = event.split("\n")
        assert name == "event: image_edit.completed"
        found = json.loads(data.removeprefix("data: "))
        assert found["type"] == "image_edit.completed"
        assert base64.b64decode(found["b64_json"]) == picture
        assert (found["usage"]["pictures"], found["usage"]["run_seconds"]) == (1, 1.5)


@pytest.mark.parametrize(
    ("stored", "error"),
    [(Objects(), NotFound), (Objects(b"\xff\xd8 other one"), InfraUnavailable)],
)
def test_bytes_that_are_not_those_of_the_picture_are_never_passed_for_it(
    stored: Objects, error: type[Exception]
) -> None:
    with pytest.raises(error):
        collect(json_body(pictures_of(SMALL), BODY, stored))


# Partial pictures ---------------------------------------------------------------------------------


class Subscription:
    """Counts the jobs that are looked at."""

    def __init__(self) -> None:
        self.jobs: set[UUID] = set()

    def watch(self, job_id: UUID) -> None:
        self.jobs.add(job_id)

    def leave(self, job_id: UUID) -> None:
        self.jobs.discard(job_id)


def numbers(most: int, *steps: tuple[int, int]) -> list[int | None]:
    """Which partial picture each preview (item, step of 20) becomes."""
    previews, job_id, taken = Previews(), uuid4(), []
    previews.subscription = subscription = Subscription()
    with Partials(previews, job_id, most) as partials:
        assert subscription.jobs == ({job_id} if most else set())
        for item_index, step in steps:
            previews.show(
                ShownPreview(
                    job_id=job_id,
                    item_index=item_index,
                    step=step,
                    steps=20,
                    width=8,
                    height=8,
                    jpeg="/9j/",
                )
            )
            assert partials.wakeup.is_set() == bool(most)
            due = partials.take()
            assert not partials.wakeup.is_set()
            taken.append(None if due is None else due[0])
    assert subscription.jobs == set()
    return taken


def test_partial_pictures_are_spread_over_the_sampling_of_each_picture() -> None:
    assert numbers(0, (0, 10)) == [None]
    assert numbers(1, (0, 9), (0, 10), (0, 19)) == [None, 0, None]
    assert numbers(3, (0, 5), (0, 6), (0, 10), (0, 15), (0, 20)) == [0, None, 1, 2, None]
    assert numbers(2, (0, 7), (1, 7), (1, 14)) == [0, 0, 1]
    assert numbers(3, (0, 18), (0, 19)) == [0, 1]  # those that came late
