"""Enlarging inside the runner: pixels, colour, alpha, what the file says, inputs that are not."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile

from runner.images.encode import encode_image
from runner.images.metadata import EmbeddedMetadata, read_metadata
from runner.ipc.inputs import Inputs
from runner.ipc.previews import PreviewRequests
from runner.job_types.base import Context
from runner.job_types.upscale import Upscale
from runner.process.cancellation import Cancelled, Stop
from runner.upscalers.resample import resample
from shared.protocol.frames import FrameError
from shared.protocol.messages import (
    Artifact,
    Format,
    FromRunner,
    Input,
    InputSpec,
    PresetSpec,
    Progress,
    ResampleParams,
    UpscaleSpec,
    Want,
)

BEFORE = EmbeddedMetadata(
    parameters="a cat\nSteps: 4, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 16x8",
    dreamforge={"type": "generate", "prompt": "a cat", "seed": 7},
)


def noise(mode: str = "RGB", size: tuple[int, int] = (16, 8)) -> Image.Image:
    bands = [Image.effect_noise(size, 60 + 20 * n) for n in range(len(mode))]
    return Image.merge(mode, bands) if len(mode) > 1 else bands[0]


class Worker:
    """Both ends of the pipe in one place: what the job asks for, and what it sent."""

    def __init__(self, *files: bytes, form: Format = "png", **params: Any) -> None:
        self.sent: list[tuple[FromRunner, bytes]] = []
        self.stop = Stop()
        self.files = files
        given = [_given(data, item, form) for item, data in enumerate(files)]
        self.spec = UpscaleSpec(
            job_id="job",
            step_id="step",
            step_name="upscale",
            preset=PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
            params=ResampleParams(**({"scale": 2, "count": len(files), "format": form} | params)),
            inputs=given,
        )
        self.inputs = Inputs(self.spec, self.answer, self.stop)

    def answer(self, want: Want) -> None:
        data = self.files[want.item_index]
        digest = hashlib.sha256(data).hexdigest()
        self.inputs.deliver(Input(item_index=want.item_index, sha256=digest), data)

    def emit(self, message: FromRunner, body: bytes = b"") -> None:
        self.sent.append((message, body))

    def run(self) -> list[ImageFile]:
        """The pictures that the job made."""
        job = Upscale()
        job.prepare(
            Context(
                spec=self.spec,
                emit=self.emit,
                stop=self.stop,
                versions={"dreamforge": "1"},
                inputs=self.inputs,
                previews=PreviewRequests(),
            )
        )
        made = job.run(self.spec.params, self.emit)
        job.cleanup()
        pictures = [
            Image.open(io.BytesIO(body)) for sent, body in self.sent if isinstance(sent, Artifact)
        ]
        assert made == len(pictures)
        return pictures


def _given(data: bytes, item: int, form: Format) -> InputSpec:
    width, height = Image.open(io.BytesIO(data)).size
    return InputSpec(
        item_index=item,
        format=form,
        width=width,
        height=height,
        seed=7 + item,
        sha256=hashlib.sha256(data).hexdigest(),
    )


@pytest.fixture
def png() -> bytes:
    return encode_image(noise(), "png", BEFORE)


# Pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_picture_is_as_much_larger_as_asked_in_its_own_colours(mode: str, scale: int) -> None:
    bands = [Image.linear_gradient("L").resize((16, 8)).rotate(180 * n) for n in range(len(mode))]
    if mode.endswith("A"):
        bands[-1] = Image.new("L", (16, 8), 255)
    picture = Image.merge(mode, bands)
    larger = resample(picture, (16 * scale, 8 * scale))
    assert (larger.mode, larger.size) == (mode, (16 * scale, 8 * scale))
    # Halving it again gives back what it was made of.
    back = np.asarray(larger.reduce(scale).convert("L"), dtype=float)
    assert abs(back - np.asarray(picture.convert("L"), dtype=float)).max() <= 4


def test_a_flat_colour_stays_exactly_that_colour() -> None:
    flat = Image.new("RGB", (8, 8), (200, 3, 77))
    assert resample(flat, (32, 32)).getcolors() == [(32 * 32, (200, 3, 77))]


def test_transparent_pixels_give_no_colour_to_their_neighbours() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 255, 0, 0))  # green, that nobody can see
    picture.paste((255, 0, 0, 255), (4, 0, 8, 8))
    seen = np.asarray(resample(picture, (32, 32)))
    assert seen[..., 1][seen[..., 3] > 8].max() == 0
    assert seen[:, -1].tolist() == [[255, 0, 0, 255]] * 32


def test_a_palette_becomes_colours_before_anything_is_mixed() -> None:
    picture = noise().convert("P", palette=Image.Palette.ADAPTIVE)
    assert resample(picture, (32, 16)).mode == "RGB"
    picture.info["transparency"] = 0
    assert resample(picture, (32, 16)).mode == "RGBA"


# The job ------------------------------------------------------------------------------------------


def test_each_input_is_pulled_and_made_larger_with_its_own_seed(png: bytes) -> None:
    worker = Worker(png, encode_image(noise("RGBA"), "png", None))
    first, second = worker.run()
    assert (first.size, first.mode) == ((32, 16), "RGB")
    assert (second.size, second.mode) == ((32, 16), "RGBA")
    small = Image.open(io.BytesIO(png))
    assert first.tobytes() == small.resize((32, 16), Image.Resampling.LANCZOS).tobytes()
    artifacts = [sent for sent, _ in worker.sent if isinstance(sent, Artifact)]
    assert [(a.item_index, a.seed, a.width, a.height) for a in artifacts] == [
        (0, 7, 32, 16),
        (1, 8, 32, 16),
    ]
    stages = [(p.stage, p.item_index) for p, _ in worker.sent if isinstance(p, Progress)]
    assert stages[:2] == [("load", None)] * 2
    assert stages[2:6] == [("sampling", 0)] * 2 + [("decode", 0)] * 2


def test_a_picture_is_sent_while_the_next_one_is_enlarged(png: bytes) -> None:
    begun = threading.Event()

    class Slow(Worker):
        def emit(self, message: FromRunner, body: bytes = b"") -> None:
            if isinstance(message, Progress) and message.item_index == 1:
                begun.set()
            if isinstance(message, Artifact) and message.item_index == 0:
                assert begun.wait(10), "the next picture waited for this one's file"
            super().emit(message, body)

    assert len(Slow(png, png).run()) == 2


def test_items_that_are_done_are_not_even_asked_for(png: bytes) -> None:
    worker = Worker(png, png, png)
    worker.spec.done_items.extend([0, 2])
    assert len(worker.run()) == 1
    assert [sent.item_index for sent, _ in worker.sent if isinstance(sent, Artifact)] == [1]


def test_the_file_says_what_the_original_said_and_what_was_done(png: bytes) -> None:
    worker = Worker(png)
    (made,) = worker.run()
    texts = read_metadata(made)
    assert texts.parameters == (
        f"{BEFORE.parameters}, Postprocess upscale by: 2, Postprocess upscaler: Lanczos"
    )
    assert texts.dreamforge is not None
    told = {name: texts.dreamforge[name] for name in ("type", "step", "prompt", "seed")}
    assert told == {"type": "upscale", "step": "upscale", "prompt": "a cat", "seed": 7}
    assert texts.dreamforge["upscale"] == {
        "scale": 2,
        "impl": "resample",
        "native_width": 32,
        "native_height": 16,
        "model": None,
    }
    sha256 = hashlib.sha256(png).hexdigest()
    assert texts.dreamforge["input"] == {"sha256": sha256, "width": 16, "height": 8}
    assert (texts.dreamforge["width"], texts.dreamforge["height"]) == (32, 16)


def test_a_jpeg_stays_one_and_says_it_in_its_comment() -> None:
    picture = encode_image(noise(), "jpg", BEFORE)
    (made,) = Worker(picture, form="jpg", scale=4).run()
    assert (made.format, made.size) == ("JPEG", (64, 32))
    assert read_metadata(made).parameters.startswith(
        BEFORE.parameters + ", Postprocess upscale by: 4"
    )
    pairs = re.findall(r"([\w ]+): ([^,]*)(?:,|$)", read_metadata(made).parameters.split("\n")[-1])
    assert {key.strip(): value for key, value in pairs}["Postprocess upscaler"] == "Lanczos"


@pytest.mark.parametrize("form", ["png", "jpg"])
def test_nothing_is_embedded_when_nothing_is_asked_for(form: Format) -> None:
    picture = encode_image(noise(), form, BEFORE)
    (made,) = Worker(picture, form=form, embed_metadata=False).run()
    assert read_metadata(made) == EmbeddedMetadata(parameters="", dreamforge=None)
    assert b"a cat" not in json.dumps(str(made.info)).encode()


# Inputs that are not what they should be ----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "cannot identify"),
        (b"GIF89a" + b"\0" * 64, "cannot identify"),
        (encode_image(noise(size=(17, 8)), "png", None), "17x8"),
        (encode_image(noise(), "png", None)[:-40], "truncated|broken"),
        (encode_image(noise(), "jpg", None), "cannot identify"),
    ],
)
def test_a_file_that_is_not_the_promised_picture_is_refused(
    png: bytes, data: bytes, error: str
) -> None:
    worker = Worker(png)
    given = worker.spec.inputs[0]
    worker.spec.inputs[0] = given.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    worker.inputs = Inputs(worker.spec, worker.answer, worker.stop)
    worker.files = (data,)
    with pytest.raises((ValueError, OSError), match=error):
        worker.run()


@pytest.fixture
def asked(png: bytes) -> Iterator[Inputs]:
    """Inputs of two items, of which the first was asked for and has not come."""
    worker = Worker(png, png)
    worker.stop.request()
    worker.inputs = Inputs(worker.spec, lambda want: None, worker.stop)
    with pytest.raises(Cancelled):
        worker.inputs.pull(0)
    yield worker.inputs


@pytest.mark.parametrize(
    ("item", "sha256", "cut", "problem"),
    [
        (1, None, 0, "was not requested"),
        (0, "0" * 64, 0, "hash"),
        (0, None, 1, "hash"),
    ],
)
def test_what_was_not_asked_for_or_has_another_hash_ends_the_conversation(
    asked: Inputs, png: bytes, item: int, sha256: str | None, cut: int, problem: str
) -> None:
    digest = sha256 or hashlib.sha256(png).hexdigest()
    with pytest.raises(FrameError, match=problem):
        asked.deliver(Input(item_index=item, sha256=digest), png[: len(png) - cut])


def test_an_input_comes_once(asked: Inputs, png: bytes) -> None:
    message = Input(item_index=0, sha256=hashlib.sha256(png).hexdigest())
    asked.deliver(message, png)
    with pytest.raises(FrameError, match="was not requested"):
        asked.deliver(message, png)
