"""Pictures whose numbers are those of another space than sRGB, and profiles that are damaged."""

from __future__ import annotations

import io
import os
import random
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL.Image import Image
from tests.support.colour_profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    from_srgb,
    gamma,
    grey_profile,
    rgb_profile,
    seen_of_grey,
    seen_of_inks,
    seen_of_rgb,
)

from runner.diffusion.sources import Sources
from runner.images.decode import decode, decode_alpha_mask, decode_mask
from runner.images.encode import encode_image
from shared.protocol.messages import Format, Log, SourceSpec

SIDES = (6, 4)
FORMATS: dict[Format, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
COLOUR, GREY, HALF, CYAN = (200, 100, 50), 100, 128, (255, 0, 0, 0)
RGB = {
    "srgb": (rgb_profile(SRGB, from_srgb), SRGB, from_srgb),
    "p3": (rgb_profile(DISPLAY_P3, from_srgb), DISPLAY_P3, from_srgb),
    "adobe": (rgb_profile(ADOBE_RGB, gamma(ADOBE_GAMMA)), ADOBE_RGB, gamma(ADOBE_GAMMA)),
}
GREYS = {
    "grey srgb": (grey_profile(from_srgb), from_srgb),
    "grey 1.8": (grey_profile(gamma(1.8)), gamma(1.8)),
}
PROFILES: dict[str, bytes] = {
    **{name: row[0] for name, row in RGB.items()},
    **{name: row[0] for name, row in GREYS.items()},
    "cmyk": cmyk_profile(),
    "cut": RGB["p3"][0][:200],
    "empty table": RGB["p3"][0][:128] + bytes(4),
    "no profile": b"<html>",
}


def translucent(mode: str, *channels: int) -> Image:
    return PIL.Image.new(mode, SIDES, (*channels, HALF))


def palette(*, transparent: bool) -> Image:
    image = PIL.Image.new("P", SIDES, 1)
    image.putpalette([0, 0, 0, *COLOUR])
    if transparent:
        image.info["transparency"] = bytes((255, HALF))
    return image


IMAGES: list[tuple[Format, Image]] = [
    ("png", PIL.Image.new("1", SIDES, 1)),
    ("png", PIL.Image.new("L", SIDES, GREY)),
    ("png", translucent("LA", GREY)),
    ("png", PIL.Image.fromarray(np.full(SIDES[::-1], GREY << 8 | 77, dtype=np.uint16))),
    ("png", palette(transparent=False)),
    ("png", palette(transparent=True)),
    ("png", PIL.Image.new("RGB", SIDES, COLOUR)),
    ("png", translucent("RGBA", *COLOUR)),
    ("jpg", PIL.Image.new("L", SIDES, GREY)),
    ("jpg", PIL.Image.new("RGB", SIDES, COLOUR)),
    ("jpg", PIL.Image.new("CMYK", SIDES, CYAN)),
    ("webp", PIL.Image.new("RGB", SIDES, COLOUR)),
    ("webp", translucent("RGBA", *COLOUR)),
]


def source(format: Format, orientation: int = 1, **changes: Any) -> SourceSpec:
    width, height = SIDES if orientation < 5 else SIDES[::-1]
    facts: dict[str, Any] = {
        "item_index": 0,
        "role": "image",
        "id": "4711",
        "format": format,
        "width": width,
        "height": height,
        "orientation": orientation,
        "sha256": "0" * 64,
    }
    return SourceSpec(**(facts | changes))


def encoded(image: Image, format: Format, profile: bytes | None = None) -> bytes:
    buffer = io.BytesIO()
    lossless = {"lossless": True} if format == "webp" else {}
    image.save(buffer, FORMATS[format], icc_profile=profile, **lossless)
    return buffer.getvalue()


def decoded(data: bytes, spec: SourceSpec) -> tuple[Image, list[Any]]:
    said: list[Any] = []
    made = decode(data, spec, lambda message, body=b"": said.append(message))
    assert made.info == {}
    return made, said


def meant(image: Image, profile: str) -> Any:
    """The levels of sRGB that `image` has by this profile, on white; None: it cannot be applied."""
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
    numbers = (255 if image.mode == "1" else GREY,) * 3 if grey else COLOUR
    if profile in RGB and image.mode != "CMYK":
        _, primaries, curve = RGB[profile]
        levels = seen_of_rgb(numbers, primaries, curve)
    elif profile in GREYS and grey:
        levels = np.repeat(seen_of_grey(numbers[0], GREYS[profile][1]), 3)
    elif profile == "cmyk" and image.mode == "CMYK":
        levels = seen_of_inks((1, 0, 0, 0))
    else:
        return None
    alpha = HALF / 255 if image.has_transparency_data else 1.0
    return levels * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("format", "image"), IMAGES, ids=[f"{f}-{i.mode}-{n}" for n, (f, i) in enumerate(IMAGES)]
)
def test_a_picture_of_each_mode_and_profile_has_the_colours_that_were_meant(
    format: Format, image: Image, profile: str
) -> None:
    plain, _ = decoded(encoded(image, format), source(format))
    made, said = decoded(encoded(image, format, PROFILES[profile]), source(format))
    assert (made.mode, made.size) == ("RGB", SIDES)
    levels = meant(image, profile)
    if levels is None:
        (log,) = said
        assert isinstance(log, Log)
        assert (log.level, log.code) == ("WARNING", "input.profile")
        assert "of the input 4711 (image) is not applied" in log.message
    else:
        assert said == []
        # JPEG rounds twice, and so do tables of 8 bits.
        assert np.abs(np.asarray(made) - levels).max() <= (4 if format == "jpg" else 2)
    if levels is None or profile in ("srgb", "grey srgb"):
        assert np.array_equal(np.asarray(made), np.asarray(plain))


def test_numbers_of_srgb_stay_as_they_are() -> None:
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for format, lossless in (("png", "png"), ("webp", "webp")):
        data = encoded(PIL.Image.fromarray(noise), format, PROFILES["srgb"])  # type: ignore[arg-type]
        made, _ = decoded(data, source(lossless, width=64, height=64))  # type: ignore[arg-type]
        assert np.array_equal(np.asarray(made), noise)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_every_colour_of_a_wide_space_is_the_nearest_one_of_srgb(format: Format) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("p3", "adobe"):
        data = encoded(PIL.Image.fromarray(noise), format, PROFILES[name])
        made, _ = decoded(data, source(format, width=64, height=64))
        assert np.abs(np.asarray(made) - seen_of_rgb(noise, *RGB[name][1:])).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_profile_and_an_orientation_are_both_applied(orientation: int) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (*SIDES[::-1], 3), dtype=np.uint8)
    image = PIL.Image.fromarray(noise)
    flat, _ = decoded(encoded(image, "png"), source("png", orientation))
    made, _ = decoded(encoded(image, "png", PROFILES["p3"]), source("png", orientation))
    wanted = seen_of_rgb(np.asarray(flat), *RGB["p3"][1:])
    assert np.abs(np.asarray(made) - wanted).max() <= 2


def test_a_mask_is_its_numbers_whatever_its_profile() -> None:
    image = PIL.Image.new("L", SIDES, GREY)
    mask = decode_mask(encoded(image, "png", PROFILES["grey 1.8"]), source("png", role="mask"))
    assert (mask.getextrema(), mask.info) == ((GREY, GREY), {})
    cut_out = encoded(translucent("RGBA", *COLOUR), "png", PROFILES["p3"])
    assert decode_alpha_mask(cut_out, source("png", role="alpha_mask")).getextrema() == (127, 127)


@pytest.mark.parametrize("format", FORMATS)
def test_a_result_has_no_profile_of_what_it_was_made_from(format: Format) -> None:
    image, _ = decoded(encoded(IMAGES[6][1], "png", PROFILES["p3"]), source("png"))
    sources = Sources(image=image, mask=PIL.Image.new("L", SIDES))
    made = encode_image(sources.composite(PIL.Image.new("RGB", SIDES)), format, None)
    assert "icc_profile" not in PIL.Image.open(io.BytesIO(made)).info


@pytest.mark.parametrize("format", FORMATS)
def test_a_profile_of_megabytes_is_applied(format: Format) -> None:
    profile = PROFILES["p3"] + os.urandom(3 << 20)
    size = len(profile).to_bytes(4)
    data = encoded(PIL.Image.new("RGB", SIDES, COLOUR), format, size + profile[4:])
    made, said = decoded(data, source(format))
    assert said == []
    assert np.abs(np.asarray(made) - seen_of_rgb(COLOUR, *RGB["p3"][1:])).max() <= 4


@pytest.mark.parametrize("profile", ["p3", "grey 1.8", "cmyk"])
def test_a_damaged_profile_is_applied_or_left_out_and_fails_nothing(profile: str) -> None:
    mode = {"p3": "RGB", "grey 1.8": "L", "cmyk": "CMYK"}[profile]
    chance, left_out = random.Random(7), 0
    for _ in range(40):
        data = bytearray(PROFILES[profile])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        cut = bytes(data[: chance.choice((len(data), chance.randrange(1, len(data))))])
        made, said = decoded(encoded(PIL.Image.new(mode, SIDES), "jpg", cut), source("jpg"))
        assert (made.mode, made.size) == ("RGB", SIDES)
        left_out += len(said)
    assert 4 < left_out < 40
