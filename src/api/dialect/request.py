"""A request in OpenAI's words, and the job that it asks for.

Their names are translated; ours, which clients send beside them (`extra_body`), are those of
`CreateJob` and mean the same. What we cannot honour is refused by name, never ignored.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, create_model

from api.schemas.requests import CreateJob, Name, Strict, TagValue, Text
from shared.errors import DreamForgeError, InvalidInput

# As many as their clients may ask for in one call.
MAX_PICTURES = 10
MAX_PARTIAL_IMAGES = 3
# The tag that carries a client's name for its own user.
USER_TAG = "user"
# Of ours, what a field of theirs says: theirs by ours.
_TRANSLATED = {
    "type": "",
    "prompt": "prompt",
    "model_id": "model",
    "count": "n",
    "width": "size",
    "height": "size",
    "format": "output_format",
    "jpeg_quality": "output_compression",
    "webp_quality": "output_compression",
}
# Of theirs, what says how the answer comes, and not which pictures it has.
_OF_THE_ANSWER = {"response_format", "stream", "partial_images"}
_FORMATS: dict[str | None, str] = {None: "png", "png": "png", "jpeg": "jpg", "webp": "webp"}
_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
SIZE_PATTERN = rf"^(auto|{_SIZE.pattern})$"


def _size(text: str) -> str:
    if text != "auto" and _SIZE.fullmatch(text) is None:
        raise ValueError("must be auto, or width and height in pixels like 1024x1024")
    return text


if TYPE_CHECKING:

    class OwnFields(Strict):
        pass

else:  # a type checker cannot follow it: every field of `CreateJob` but those that are translated
    OwnFields = create_model(
        "OwnFields",
        __base__=Strict,
        **{
            name: (field.annotation, field)
            for name, field in CreateJob.model_fields.items()
            if name not in _TRANSLATED
        },
    )


class GenerateImages(OwnFields):
    """What OpenAI's clients send to generate pictures, and fields of our own beside it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a red apple"},
                {
                    "model": "my-model",
                    "prompt": "a lighthouse at night, oil painting",
                    "n": 2,
                    "size": "512x512",
                    "output_format": "jpeg",
                    "seed": 42,
                },
            ]
        }
    )

    prompt: Annotated[Text, Field(min_length=1, description="what to draw")]
    model: Name | None = Field(
        default=None, description="an id from `GET /v1/models`; default: the operator's"
    )
    n: int | None = Field(default=None, ge=1, le=MAX_PICTURES, description="pictures; default 1")
    size: Annotated[str, AfterValidator(_size)] | None = Field(
        default=None,
        description="`1024x1024`, both in multiples of 8; `auto`, the default: the model's own",
        json_schema_extra={
            "anyOf": [{"type": "string", "pattern": SIZE_PATTERN}, {"type": "null"}]
        },
    )
    quality: Literal["auto", "low", "medium", "standard", "high", "hd"] | None = Field(
        default=None,
        description="sets `steps`: `low` half of the model's own, `high` and `hd` one and a half "
        "times; the others, and the default: the model's own",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="default `b64_json`; `url` is presigned and expires"
    )
    output_format: Literal["png", "jpeg", "webp"] | None = Field(
        default=None, description="default png"
    )
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="quality of a JPEG or WebP file; of a PNG only 100"
    )
    background: Literal["auto", "opaque"] | None = Field(
        default=None, description="`transparent` is not possible here"
    )
    user: TagValue | None = Field(
        default=None, description="your name for your user; it becomes the tag `user`"
    )
    safety_identifier: TagValue | None = Field(
        default=None, description="the same; it goes before `user`"
    )
    stream: bool | None = Field(default=None, description="answer with events (SSE)")
    partial_images: int | None = Field(
        default=None,
        ge=0,
        le=MAX_PARTIAL_IMAGES,
        description="with `stream`: at most so many small ones of each picture, as it is sampled",
    )

    @property
    def level(self) -> Literal["low", "medium", "high"]:
        """`quality` as answers name it."""
        match self.quality:
            case "low":
                return "low"
            case "high" | "hd":
                return "high"
            case _:
                return "medium"


def job_of(body: GenerateImages, default_steps: int | None) -> CreateJob:
    """The job that `body` asks for. `default_steps` are the model's, where `quality` needs them.

    Raises `RequestValidationError` and `InvalidInput`, in the words of the dialect.
    """
    _check_answer(body)
    own = set(OwnFields.model_fields)
    ours = body.model_dump(mode="json", include=own, exclude_unset=True)
    ours |= {"type": "generate", **dict(_translated(body))}
    if end_user := body.safety_identifier or body.user:
        ours["tags"] = ours.get("tags", {}) | {USER_TAG: end_user}
    if default_steps is not None:
        ours["steps"] = _steps(body, default_steps)
    try:
        return CreateJob.model_validate(ours)
    except ValidationError as error:
        raise RequestValidationError([_in_their_words(each) for each in error.errors()]) from None


def of_pictures(parsed: dict[str, Any]) -> dict[str, Any]:
    """The parts of a parsed body that decide which pictures are made.

    A client that repeats a request with its key may take the answer in another form.
    """
    return {name: value for name, value in parsed.items() if name not in _OF_THE_ANSWER}


def needs_steps(body: GenerateImages) -> bool:
    """Whether `quality` needs the steps that the model takes by itself. Raises `InvalidInput`."""
    if body.level == "medium":
        return False
    if getattr(body, "steps", None) is not None:
        raise InvalidInput(
            "quality: sets the steps, and `steps` does so as well; send one of the two",
            field="quality",
        )
    return True


def _translated(body: GenerateImages) -> Iterator[tuple[str, Any]]:
    """Our names and values for those of their fields that were sent."""
    yield "prompt", body.prompt
    if body.model is not None:
        yield "model_id", body.model
    if body.n is not None:
        yield "count", body.n
    if body.size is not None and (sides := _SIZE.fullmatch(body.size)):
        yield "width", int(sides[1])
        yield "height", int(sides[2])
    if body.output_format is not None:
        yield "format", _FORMATS[body.output_format]
    if body.output_compression is not None and body.output_format in ("jpeg", "webp"):
        yield f"{body.output_format}_quality", max(1, body.output_compression)


def _check_answer(body: GenerateImages) -> None:
    """Raise `InvalidInput` for what only makes sense together with another field."""
    if body.output_compression not in (None, 100) and body.output_format in (None, "png"):
        raise InvalidInput(
            "output_compression: a PNG loses nothing; send 100, or output_format jpeg or webp",
            field="output_compression",
        )
    if USER_TAG in getattr(body, "tags", {}) and (body.safety_identifier or body.user):
        raise InvalidInput(
            f"user: becomes the tag {USER_TAG!r}, and `tags` has it as well; send one of the two",
            field="user",
        )
    if body.partial_images and not body.stream:
        raise InvalidInput("partial_images: comes with stream true only", field="partial_images")
    if body.stream and body.response_format == "url":
        raise InvalidInput(
            "response_format: a stream carries the pictures; send b64_json, or no stream",
            field="response_format",
        )


def _steps(body: GenerateImages, default_steps: int) -> int:
    if body.level == "low":
        return max(1, default_steps // 2)
    return default_steps + default_steps // 2


def in_their_words(refused: DreamForgeError) -> DreamForgeError:
    """A refusal by model, preset or key, with the names that the client knows the fields by."""
    details = refused.details
    for finding in details.get("errors", ()):
        finding["field"] = _TRANSLATED.get(finding["field"], finding["field"])
    name, separator, rest = refused.message.partition(": ")
    if separator and (theirs := _TRANSLATED.get(name)):
        details["field"] = theirs
        refused.message = f"{theirs}: {name} {rest}" if theirs == "size" else f"{theirs}: {rest}"
    return refused


def _in_their_words(error: Any) -> dict[str, Any]:
    """The same for pydantic's error about a field of ours."""
    name, *inner = error["loc"]
    return {**error, "loc": ("body", _TRANSLATED.get(name, name), *inner)}
