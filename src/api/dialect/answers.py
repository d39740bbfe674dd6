"""Answers in OpenAI's words: the object of a call, and the events of a stream.

Pictures are not in these objects: `bodies` puts their base64 between the parts of the JSON while it
is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.dialect.request import GenerateImages
from shared.db.artifacts import Artifact
from shared.db.jobs import Job

Completed = Literal["image_generation.completed", "image_edit.completed"]
# Their names of formats, by ours.
_FORMAT_NAMES = {"jpg": "jpeg"}


class TokenDetails(BaseModel):
    text_tokens: int = 0
    image_tokens: int = 0


class PictureUsage(BaseModel):
    """No model here counts tokens, so those are 0; the rest is what the job used."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    output_tokens_details: TokenDetails = TokenDetails()
    total_tokens: int = 0
    pictures: int
    run_seconds: float = Field(description="of all steps, from the start of each one's last run")


class PictureOut(BaseModel):
    b64_json: str | None = Field(default=None, description="the file as base64")
    url: str | None = Field(default=None, description="presigned GET, needs no key")
    seed: int = Field(description="the one that was used; sent again, it makes this picture")


class About(BaseModel):
    """What an answer and an event say of their pictures."""

    background: Literal["opaque"] = "opaque"
    output_format: str
    quality: Literal["low", "medium", "high"]
    size: str = Field(description="width and height in pixels, like 1024x1024")
    usage: PictureUsage


class ImagesOut(About):
    """The answer to a call."""

    created: int = Field(description="when the job was created, in seconds since 1970")
    data: list[PictureOut]


class CompletedEvent(About):
    """One picture of a stream."""

    type: Completed
    b64_json: str
    created_at: int = Field(description="when the job was created, in seconds since 1970")
    seed: int


class PartialEvent(BaseModel):
    """A picture of a stream while it is sampled."""

    type: str = Field(description="`image_generation.partial_image`, `image_edit.partial_image`")
    b64_json: str
    created_at: int = Field(description="now, in seconds since 1970")
    background: Literal["opaque"] = "opaque"
    output_format: Literal["jpeg"] = "jpeg"
    quality: Literal["low", "medium", "high"]
    size: str = Field(description="of this small picture, in pixels")
    partial_image_index: int = Field(description="from 0, for each picture")
    item_index: int = Field(description="of the picture, from 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """The pictures of a job that succeeded, in the order of their items."""

    job: Job
    artifacts: Sequence[Artifact]
    run_seconds: float

    @property
    def created(self) -> int:
        return int(self.job.created_at.timestamp())

    def about(self, body: GenerateImages, *, pictures: int) -> dict[str, Any]:
        """What all of them have in common; `pictures` of them share the usage."""
        first = self.artifacts[0]
        share = pictures / len(self.artifacts)
        usage = PictureUsage(pictures=pictures, run_seconds=round(self.run_seconds * share, 3))
        return About(
            output_format=_FORMAT_NAMES.get(first.format, first.format),
            quality=body.level,
            size=f"{first.width}x{first.height}",
            usage=usage,
        ).model_dump()
