from __future__ import annotations

import io
import json
import re
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from runner.images.encode import encode_image
from runner.images.metadata import (
    EXIF_IFD,
    UNICODE,
    USER_COMMENT,
    GenerationFacts,
    describe_generation,
    full_metadata,
    parameters_text,
    quote,
    read_metadata,
)
from shared.protocol.messages import GenerateParams, GenerateSpec, ModelSpec, PresetSpec

# The web UI's own parser of the last line (modules/infotext_utils.py), word for word.
RE_PARAM = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def facts(
    *,
    scheduler: str | None = None,
    sampler: str = "DDIMScheduler",
    options: dict[str, Any] | None = None,
    **params: Any,
) -> GenerationFacts:
    given: dict[str, Any] = {
        "prompt": "a cat",
        "width": 16,
        "height": 8,
        "steps": 20,
        "guidance": 7.5,
    }
    spec = GenerateSpec(
        job_id="job",
        step_id="step",
        step_name="generate",
        model=ModelSpec(
            id="id",
            name="tiny",
            version="1",
            kind="sd",
            folder="/secret/place",
            checkpoint_sha256="0123456789abcdef" * 4,
        ),
        preset=PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
        params=GenerateParams(**(given | params)),
    )
    return GenerationFacts(
        spec=spec,
        item_index=2,
        seed=42,
        loras=(),
        weights_sha256="0123456789abcdef" * 4,
        scheduler=scheduler,
        sampler=sampler,
        sampler_options=options or {},
        versions={"dreamforge": "0.1.0", "torch": "2"},
    )


def image() -> Image.Image:
    return Image.effect_noise((16, 8), 40).convert("RGB")


def encoded(about: GenerationFacts | None, form: Literal["png", "jpg", "webp"]) -> bytes:
    """A picture's file with what it says about itself."""
    return encode_image(image(), form, None if about is None else describe_generation(about, 16, 8))


def parsed_as_the_web_ui_does(text: str) -> dict[str, str]:
    """Prompt, negative prompt and the pairs of the last line."""
    *lines, last = text.strip().split("\n")
    assert len(RE_PARAM.findall(last)) >= 3
    found = {"Prompt": "", "Negative prompt": ""}
    where = "Prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            where, line = "Negative prompt", line[16:].strip()
        found[where] += ("\n" if found[where] else "") + line
    for key, value in RE_PARAM.findall(last):
        found[key] = json.loads(value) if value.startswith('"') else value
    return found


def test_parameters_text_is_what_the_web_ui_writes() -> None:
    text = parameters_text(facts(negative_prompt="blurry"), 16, 8)
    assert text == (
        "a cat\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 16x8, "
        "Model hash: 0123456789, Model: tiny@1, Version: dreamforge 0.1.0"
    )


@pytest.mark.parametrize("prompt", ["one", "two\nlines", "a: b, c", 'quo"te', "\u732b \U0001f4a1"])
@pytest.mark.parametrize("negative", ["", "bad, worse\nworst"])
def test_prompts_survive_the_web_ui_parser(prompt: str, negative: str) -> None:
    found = parsed_as_the_web_ui_does(
        parameters_text(facts(prompt=prompt, negative_prompt=negative), 16, 8)
    )
    assert (found["Prompt"], found["Negative prompt"]) == (prompt, negative)
    assert (found["Seed"], found["Size"], found["Steps"]) == ("42", "16x8", "20")


DPM = "DPMSolverMultistepScheduler"


@pytest.mark.parametrize(
    ("sampler", "options", "name", "schedule"),
    [
        (DPM, {"solver_order": 2, "use_karras_sigmas": True}, "DPM++ 2M", "Karras"),
        (DPM, {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", None),
        (DPM, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}, "DPM++ 3M SDE", None),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "Euler", "Exponential"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "Euler", "Beta"),
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": False}, "Euler a", None),
        ("LCMScheduler", {}, "LCM", None),
    ],
)
def test_a_folder_s_own_scheduler_is_named_as_tools_know_it(
    sampler: str, options: dict[str, Any], name: str, schedule: str | None
) -> None:
    """Without a name in the request too: its configuration says what it does."""
    found = parsed_as_the_web_ui_does(
        parameters_text(facts(sampler=sampler, options=options), 16, 8)
    )
    assert (found["Sampler"], found.get("Schedule type")) == (name, schedule)


@pytest.mark.parametrize(
    ("guidance", "written"), [(7.0, "7"), (0.0, "0"), (12.3456789, "12.3456789"), (7.5, "7.5")]
)
def test_guidance_is_written_as_it_was_given(guidance: float, written: str) -> None:
    found = parsed_as_the_web_ui_does(parameters_text(facts(guidance=guidance), 16, 8))
    assert found["CFG scale"] == written


def test_a_jpeg_says_the_quality_that_made_it_and_a_png_has_none() -> None:
    assert full_metadata(facts(format="jpg", jpeg_quality=80), 16, 8)["jpeg_quality"] == 80
    assert "jpeg_quality" not in full_metadata(facts(jpeg_quality=80), 16, 8)


@pytest.mark.parametrize("value", ["a, b", "a: b", "a\nb", 'a, "b"', "\u732b, b"])
def test_values_that_would_break_the_line_are_quoted(value: str) -> None:
    assert json.loads(quote(value)) == value
    assert quote("plain v1.0") == "plain v1.0"


@pytest.mark.parametrize("prompt", ["a cat", "\u732b"])
def test_png_carries_both_chunks(prompt: str) -> None:
    about = facts(prompt=prompt)
    data = encode_image(image(), "png", describe_generation(about, 16, 8))
    read = Image.open(io.BytesIO(data))
    assert read.info["parameters"] == parameters_text(about, 16, 8)
    assert json.loads(read.info["dreamforge"]) == full_metadata(about, 16, 8)
    assert (b"tEXtparameters" in data) == prompt.isascii()
    assert (b"iTXtparameters" in data) != prompt.isascii()


def test_full_facts_hold_what_a_repeat_needs_and_no_path_of_the_host() -> None:
    told = full_metadata(facts(scheduler="euler", negative_prompt="n"), 16, 8)
    assert told["model"]["checkpoint_sha256"] == "0123456789abcdef" * 4
    assert (told["seed"], told["scheduler"], told["steps"], told["guidance"]) == (
        42,
        "euler",
        20,
        7.5,
    )
    assert (told["job_id"], told["step"], told["item_index"]) == ("job", "generate", 2)
    assert told["software"]["torch"] == "2"
    assert "/secret/place" not in json.dumps(told)


def test_jpeg_carries_the_text_as_a_unicode_user_comment() -> None:
    about = facts(prompt="\u732b \U0001f4a1")
    data = encode_image(image(), "jpg", describe_generation(about, 16, 8))
    read = Image.open(io.BytesIO(data))
    comment = read.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    assert comment.startswith(UNICODE)
    assert comment[len(UNICODE) :].decode("utf-16-be") == parameters_text(about, 16, 8)
    assert b"Exif\x00\x00MM" in data  # the text's byte order is the header's


@pytest.mark.parametrize("character", ["\U0001f4a1", "\u732b", "\x01", "\\"])
def test_longest_prompts_fit_into_a_jpeg(character: str) -> None:
    about = facts(prompt=character * 4096, negative_prompt=character * 4096)
    read = Image.open(io.BytesIO(encode_image(image(), "jpg", describe_generation(about, 16, 8))))
    assert read.getexif().get_ifd(EXIF_IFD)[USER_COMMENT]
    assert json.loads(read.info["comment"]) == full_metadata(about, 16, 8)


def test_a_lower_quality_makes_a_smaller_jpg_and_no_other_png() -> None:
    picture = Image.effect_noise((64, 64), 40).convert("RGB")
    sizes = [len(encode_image(picture, "jpg", None, jpeg_quality=q)) for q in (10, 80, 95, 100)]
    assert sizes == sorted(set(sizes))
    assert encode_image(picture, "jpg", None) == encode_image(picture, "jpg", None, jpeg_quality=95)
    best, worst = (encode_image(picture, "png", None, jpeg_quality=q) for q in (100, 1))
    assert best == worst


def test_transparency_is_kept_in_a_png() -> None:
    clear = image().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    as_png = Image.open(io.BytesIO(encode_image(clear, "png", describe_generation(facts(), 16, 8))))
    assert (as_png.mode, as_png.tobytes()) == ("RGBA", clear.tobytes())
    grey = image().convert("L")
    assert Image.open(io.BytesIO(encode_image(grey, "png", None))).tobytes() == grey.tobytes()


def test_a_jpeg_shows_a_transparent_picture_on_white() -> None:
    """Red under full transparency is not seen; half of a black is grey."""
    clear = Image.new("RGBA", (48, 16), (255, 0, 0, 0))
    clear.paste((0, 0, 0, 128), (16, 0, 32, 16))
    clear.paste((0, 0, 255, 255), (32, 0, 48, 16))
    made = Image.open(io.BytesIO(encode_image(clear, "jpg", None, jpeg_quality=100)))
    assert made.mode == "RGB"
    for x, wanted in ((8, (255, 255, 255)), (24, (127, 127, 127)), (40, (0, 0, 255))):
        seen = made.getpixel((x, 8))
        assert isinstance(seen, tuple)
        assert max(abs(a - b) for a, b in zip(seen, wanted, strict=True)) <= 2, (x, seen)
    palette = clear.convert("P")
    palette.info["transparency"] = palette.getpixel((8, 8))
    made = Image.open(io.BytesIO(encode_image(palette, "jpg", None, jpeg_quality=100)))
    seen = made.getpixel((8, 8))
    assert isinstance(seen, tuple) and min(seen) >= 253


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_nothing_is_embedded_without_facts(form: Any) -> None:
    data = encode_image(image(), form, None)
    read = Image.open(io.BytesIO(data))
    read.load()
    assert not getattr(read, "text", {})
    assert not read.getexif()
    assert not set(read.info) & {"parameters", "dreamforge", "exif", "comment"}


def test_png_keeps_every_pixel_and_jpeg_has_no_alpha() -> None:
    picture = image()
    read = Image.open(io.BytesIO(encode_image(picture, "png", describe_generation(facts(), 16, 8))))
    assert read.tobytes() == picture.tobytes()
    alpha = picture.convert("RGBA")
    assert Image.open(io.BytesIO(encode_image(alpha, "jpg", None))).mode == "RGB"


def test_a_webp_is_lossless_unless_a_quality_says_otherwise_and_keeps_what_it_says() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    about = facts(prompt="\u732b " * 1500, format="webp")
    metadata = describe_generation(about, 60, 40)
    whole = Image.open(io.BytesIO(encode_image(picture, "webp", metadata)))
    seen = noise[..., 3] > 0  # the colours of what cannot be seen may change
    assert (np.asarray(whole)[seen] == noise[seen]).all()
    assert (np.asarray(whole)[..., 3] == noise[..., 3]).all()
    assert read_metadata(whole) == metadata
    assert metadata.dreamforge is not None
    assert metadata.dreamforge["webp_quality"] is None
    sizes = [len(encode_image(picture, "webp", None, webp_quality=q)) for q in (10, 50, 95)]
    assert sizes == sorted(set(sizes))
    assert full_metadata(facts(format="webp", webp_quality=80), 16, 8)["webp_quality"] == 80
