"""Our metadata through other people's readers: sd-parsers, pypng, ExifRead."""

from __future__ import annotations

import io
import json
from typing import Any

import exifread
import png
import pytest
from PIL import Image
from sd_parsers import ParserManager
from sd_parsers.data import PromptInfo
from tests.unit.runner.test_images_metadata import encoded, facts

from runner.images.metadata import full_metadata, parameters_text

PROMPTS = [
    "a cat",
    "two\nlines, and a comma: colon",
    'a "quote" word, Steps: 3, Sampler: none',
    "\u732b \U0001f4a1 caf\u00e9",
    "x" * 4096,
]


# sd-parsers remembers the last picture by its `id`, which the next one may get: none is let go.
OPENED: list[Image.Image] = []


def read(data: bytes) -> PromptInfo | None:
    image = Image.open(io.BytesIO(data))
    OPENED.append(image)
    return ParserManager().parse(image)


@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
@pytest.mark.parametrize("negative", ["", "bad, worse\nworst: all"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_another_reader_finds_what_was_asked_for(prompt: str, negative: str, form: Any) -> None:
    about = facts(prompt=prompt, negative_prompt=negative, scheduler="dpmpp_2m_karras",
                  sampler="DPMSolverMultistepScheduler", guidance=5.5,
                  options={"use_karras_sigmas": True})  # fmt: skip
    found = read(encoded(about, form))
    assert found is not None, "not recognised"
    assert found.generator.value == "AUTOMATIC1111"
    assert found.full_prompt == prompt
    assert found.full_negative_prompt == negative
    (sampler,) = found.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters["steps"] == "20"
    assert sampler.parameters["cfg_scale"] == "5.5"
    assert sampler.parameters["seed"] == "42"
    (model,) = found.models
    assert (model.name, model.hash) == ("tiny@1", "0123456789")
    assert found.metadata["Size"] == "16x8"


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_strict_reader_of_png_finds_both_texts_and_sound_chunks(prompt: str) -> None:
    about = facts(prompt=prompt)
    # pypng checks every checksum, and reads the pixels to the end.
    reader = png.Reader(bytes=encoded(about, "png"))
    chunks = list(reader.chunks())
    kinds = [kind for kind, _ in chunks]
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    texts = dict(text_of(kind, body) for kind, body in chunks if kind in (b"tEXt", b"iTXt"))
    assert texts["parameters"] == parameters_text(about, 16, 8)
    assert json.loads(texts["dreamforge"]) == full_metadata(about, 16, 8)
    width, height, rows, info = png.Reader(bytes=encoded(about, "png")).asDirect()
    assert (width, height, len(list(rows)), info["planes"]) == (16, 8, 8, 3)


def text_of(kind: bytes, body: bytes) -> tuple[str, str]:
    """A text chunk by the letter of the PNG specification, 11.3.4."""
    keyword, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return keyword.decode("latin-1"), rest.decode("latin-1")
    assert rest[:2] == b"\0\0", "compressed, which some readers cannot read"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return keyword.decode("latin-1"), text.decode()


# This reader leaves values of more than a thousand bytes out.
@pytest.mark.parametrize("form", ["jpg", "webp"])
@pytest.mark.parametrize("prompt", [prompt for prompt in PROMPTS if len(prompt) < 400])
def test_a_reader_of_exif_finds_the_user_comment(prompt: str, form: Any) -> None:
    about = facts(prompt=prompt)
    data = encoded(about, form)
    if form == "webp":  # it loses its way in a WebP behind a chunk of an odd length
        data = data[data.index(b"EXIF") + 8 :]
    tags = exifread.process_file(io.BytesIO(data), details=True)
    comment = bytes(tags["EXIF UserComment"].values)
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == parameters_text(about, 16, 8)


@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
def test_no_reader_finds_anything_when_nothing_was_to_be_embedded(form: Any) -> None:
    data = encoded(None, form)
    assert read(data) is None
    if form == "webp":
        assert b"EXIF" not in data
    elif form == "jpg":
        assert not exifread.process_file(io.BytesIO(data), details=True)
    else:
        assert {kind for kind, _ in png.Reader(bytes=data).chunks()} == {b"IHDR", b"IDAT", b"IEND"}
