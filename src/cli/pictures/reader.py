"""Read from a picture file how it was made.

The file may come from anywhere, so nothing in it is trusted: its size in bytes is limited before it
is opened and its size in pixels before it is decoded, Pillow limits the unpacked size of a text
chunk, and the JSON is checked field by field. What is not ours is shown as it is written.
"""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cli.errors import Failure, first_problem
from cli.pictures.texts import texts_of
from shared.limits import MAX_LORAS, MAX_PROMPT, MAX_REFERENCES, MAX_SEED
from shared.models.descriptor import Sha256
from shared.typed_json import is_deeper

# The largest file that a runner can send is a frame's body, 64 MiB.
MAX_FILE_BYTES = 128 << 20
MAX_PIXELS = 1 << 26  # a decoded picture takes four bytes for each
Format = Literal["png", "jpg", "webp", "avif", "gif"]
# By Pillow's names; a JPEG that holds several pictures is an MPO to it.
_FORMATS: dict[str, Format] = {
    "PNG": "png",
    "JPEG": "jpg",
    "MPO": "jpg",
    "WEBP": "webp",
    "AVIF": "avif",
    "GIF": "gif",
}


# How other formats begin: after so many bytes, with these.
_OTHERS = (
    (0, b"II*\0", "a TIFF, or a camera's raw picture"),
    (0, b"MM\0*", "a TIFF, or a camera's raw picture"),
    (0, b"BM", "a BMP"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftyphev", "a HEIC"),
    (4, b"ftypmif1", "a HEIF"),
    (4, b"ftyp", "a video, or a picture in a video's container"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"8BPS", "a PSD"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "XML, perhaps an SVG"),
    (0, b"PK\x03\x04", "a ZIP"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, and not the file itself"),
)
_LONGEST_SIGN = 32
_MOST_LEVELS = 32  # of our object, which has three
_NOT_WHOLE = "not a whole PNG, JPEG, WebP, AVIF or GIF file"

# What Pillow raises for a damaged file; the last one for an AVIF.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)


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


class SourceMetadata(Metadata):
    """A picture that it was started from, by its role and its id as an input."""

    role: Literal["image", "mask", "alpha_mask", "reference"]
    id: str = Field(max_length=64)


class LoraMetadata(Metadata):
    """A LoRA that was added to the model, and how strongly."""

    name: str = Field(max_length=256)
    version: str = Field(max_length=256)
    checkpoint_sha256: Sha256
    scale: float


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
    strength: float | None = None
    webp_quality: int | None = None
    inputs: list[SourceMetadata] = Field(default=[], max_length=MAX_REFERENCES)
    loras: list[LoraMetadata] = Field(default=[], max_length=MAX_LORAS)
    upscale: UpscaleMetadata | None = None  # with `input`, for an enlarged picture only
    input: InputMetadata | None = None


class PictureText(BaseModel):
    """The texts of a file: the one that many tools read, our own object as written, and all others.

    `dreamforge` is None too where a text of that name is no JSON object; then it is in `texts`.
    """

    format: Format
    width: int
    height: int
    parameters: str | None
    dreamforge: dict[str, Any] | None
    texts: dict[str, str] = {}

    @property
    def is_silent(self) -> bool:
        """Whether the file says nothing about its making."""
        return not self.all_texts

    @property
    def all_texts(self) -> dict[str, str]:
        """Every text by its name, our object as JSON."""
        own = {} if self.parameters is None else {"parameters": self.parameters}
        if self.dreamforge is not None:
            own["dreamforge"] = json.dumps(self.dreamforge, ensure_ascii=False)
        return own | self.texts


def read_picture(path: Path) -> PictureText:
    """Read a file's texts. Raises `Failure` for what is no picture, or no whole one."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise Failure(f"{path}: larger than any picture of ours ({MAX_FILE_BYTES >> 20} MiB)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what can be read of a damaged EXIF block is enough
            format, size, texts = _read(path)
    except Image.DecompressionBombError as error:
        raise Failure(f"{path}: {error}") from None
    except UnidentifiedImageError:
        raise Failure(f"{path}: {_NOT_WHOLE}{_what_it_is(path)}") from None
    except _DAMAGED as error:
        raise Failure(f"{path}: {_NOT_WHOLE}: {error}") from None
    ours = _object(texts.get("dreamforge"))
    if ours is not None:
        del texts["dreamforge"]
    return PictureText(
        format=format,
        width=size[0],
        height=size[1],
        parameters=texts.pop("parameters", None),
        dreamforge=ours,
        texts=texts,
    )


def _read(path: Path) -> tuple[Format, tuple[int, int], dict[str, str]]:
    with Image.open(path, formats=("PNG", "JPEG", "WEBP", "AVIF", "GIF")) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Failure(
                f"{path}: {width}x{height} pixels, which are more than the {MAX_PIXELS} that are "
                "read; no picture of ours has as many"
            )
        # The whole file: texts may come after the pixels, and a cut file must be an error.
        image.load()
        return _FORMATS[str(image.format)], image.size, texts_of(image)


def _what_it_is(path: Path) -> str:
    """What a file that is no picture of a format that we read is, by how it begins."""
    with path.open("rb") as file:
        begin = file.read(_LONGEST_SIGN)
    if not begin:
        return ": it is empty"
    found = (name for offset, sign, name in _OTHERS if begin[offset:].startswith(sign))
    return next((f": it is {name}" for name in found), "")


def parse_metadata(path: Path, picture: PictureText) -> PictureMetadata:
    """Our object, checked. Raises `Failure` for a picture that is not ours, or is damaged."""
    if "dreamforge" in picture.texts:
        raise Failure(f"{path}: its dreamforge text is not JSON, or not a JSON object")
    if picture.dreamforge is None:
        raise Failure(f"{path}: not made by Dream Forge, or with embed_metadata=false")
    try:
        return PictureMetadata.model_validate(picture.dreamforge)
    except ValidationError as error:
        problem = first_problem(error)
        raise Failure(f"{path}: its dreamforge text is not ours: {problem}") from None


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not is_deeper(value, _MOST_LEVELS) else None
