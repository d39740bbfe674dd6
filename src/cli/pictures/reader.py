"""Read from a picture file how it was made.

The file may come from anywhere, so nothing in it is trusted: its size is limited before it is
opened, Pillow limits the unpacked size of a text chunk, and the JSON is checked field by field.
"""

import json
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cli.errors import Failure, first_problem
from shared.limits import MAX_PROMPT, MAX_SEED
from shared.models.descriptor import Sha256

# The largest file that a runner can send is a frame's body, 64 MiB.
MAX_FILE_BYTES = 128 << 20
MAX_TEXT_CHARACTERS = 1 << 20
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
UNICODE = b"UNICODE\x00"


class Metadata(BaseModel):
    """The fields of the `dreamforge` object that the command line uses; others are allowed."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class ModelMetadata(Metadata):
    name: str = Field(max_length=256)
    version: str = Field(max_length=256)
    kind: str = Field(max_length=64)
    checkpoint_sha256: Sha256


class PresetMetadata(Metadata):
    name: str = Field(max_length=256)
    version: int


class InputMetadata(Metadata):
    """The size of the picture before the upscale, in pixels."""

    width: int
    height: int


class UpscaleMetadata(Metadata):
    scale: int
    impl: str = Field(max_length=64)
    model: ModelMetadata | None = None  # resampling has none


class PictureMetadata(Metadata):
    """`dreamforge`, schema version 1. Sizes are pixels."""

    schema_version: Literal[1]
    type: str = Field(max_length=64)
    prompt: str = Field(max_length=MAX_PROMPT)
    negative_prompt: str = Field(max_length=MAX_PROMPT)
    seed: int = Field(ge=0, lt=MAX_SEED)
    scheduler: str | None = Field(max_length=64)
    scheduler_class: str | None = Field(default=None, max_length=256)
    steps: int
    guidance: float
    width: int
    height: int
    model: ModelMetadata
    preset: PresetMetadata
    job_id: str = Field(max_length=64)
    step: str = Field(max_length=64)
    item_index: int
    software: dict[str, str]
    upscale: UpscaleMetadata | None = None  # with `input`, for an enlarged picture only
    input: InputMetadata | None = None


class PictureText(BaseModel):
    """The texts of a file: the one that other tools read, and our own object as written."""

    format: Literal["png", "jpg"]
    width: int
    height: int
    parameters: str | None
    dreamforge: dict[str, Any] | None


def read_picture(path: Path) -> PictureText:
    """Read a file's texts. Raises `Failure` for what is no picture of ours or another tool's."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Failure(f"{path}: larger than any picture of ours ({MAX_FILE_BYTES >> 20} MiB)")
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            # The whole file: texts may come after the pixels, and a cut file must be an error.
            image.load()
            jpg = image.format == "JPEG"
            parameters, ours = _of_jpeg(image) if jpg else _of_png(image)
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise Failure(f"{path}: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Failure(f"{path}: not a whole PNG or JPEG file: {error}") from None
    return PictureText(
        format="jpg" if jpg else "png",
        width=width,
        height=height,
        parameters=parameters,
        dreamforge=_object(path, ours),
    )


def parse_metadata(path: Path, picture: PictureText) -> PictureMetadata:
    """Our object, checked. Raises `Failure` for a picture that is not ours, or is damaged."""
    if picture.dreamforge is None:
        raise Failure(f"{path}: not made by Dream Forge, or with embed_metadata=false")
    try:
        return PictureMetadata.model_validate(picture.dreamforge)
    except ValidationError as error:
        problem = first_problem(error)
        raise Failure(f"{path}: its dreamforge text is not ours: {problem}") from None


def _of_png(image: Image.Image) -> tuple[str | None, str | None]:
    texts = getattr(image, "text", {})
    return _bounded(texts.get("parameters")), _bounded(texts.get("dreamforge"))


def _of_jpeg(image: Image.Image) -> tuple[str | None, str | None]:
    """EXIF's UserComment, and the comment segment, which holds our object."""
    user = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    text = None
    if isinstance(user, bytes) and user.startswith(UNICODE):
        text = user.removeprefix(UNICODE).decode("utf-16-be")
    comment = image.info.get("comment")
    ours = comment.decode() if isinstance(comment, bytes) and comment[:1] == b"{" else None
    return _bounded(text), _bounded(ours)


def _bounded(text: str | None) -> str | None:
    if text is not None and len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"a text of {len(text)} characters")
    return text


def _object(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Failure(f"{path}: its dreamforge text is not JSON") from None
    if not isinstance(value, dict):
        raise Failure(f"{path}: its dreamforge text is not a JSON object")
    return value
