"""Image to image and inpainting with every family, tiny and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
)
from PIL.Image import Image
from tests.support.families import FAMILIES, build
from tests.support.golden import CPU, MODEL, TOLERANCE_DB, golden, levels, psnr_db, redraw

from runner.diffusion.pipelines import load, load_on_host, place
from runner.diffusion.sources import Sources, strength_of_a_step
from shared.models.descriptor import ModelDescriptor, parameters_schema
from shared.models.picture_tasks import TASK_PIPELINES, PictureTask, tasks_of
from shared.protocol.messages import GenerateParams

# diffusers hands torch tensors to numpy in the way of numpy 1; its T5 reads a tokenizer's old
# attribute; its Chroma imports from an old place; nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]
SIZE = (64, 48)
CAN: dict[str, tuple[PictureTask, ...]] = {
    **dict.fromkeys(("sd", "sd2", "sdxl", "sd3", "flux"), ("image_to_image", "inpaint")),
    **dict.fromkeys(("lcm", "chroma"), ("image_to_image",)),
    "pixart": (),
    "kontext": ("edit",),
}
# By which LoRAs are told apart: of the text that a U-Net reads, of a transformer's stream.
WIDTHS = {"sd": 32, "sd2": 48, "sdxl": 32 + 48, "sd3": 32, "flux": 32}
# diffusers has these classes and leaves them out of its list.
NOT_PAIRED = ("ChromaPipeline", "Flux2KleinPipeline")
CASES = [(family, task) for family, tasks in CAN.items() for task in tasks if task != "edit"]

Model = tuple[Path, ModelDescriptor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """The folder of a family's tiny model, built once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root = tmp_path_factory.mktemp("families")
    built: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in built:
            built[family] = root / family, build(family, root / family)
        return built[family]

    return get


def params(strength: float, **changes: Any) -> GenerateParams:
    given = {"prompt": "a cat", "width": SIZE[0], "height": SIZE[1], "steps": 4, "guidance": 3.0}
    return GenerateParams.model_validate(given | {"strength": strength} | changes)


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def half_mask() -> Image:
    """White, a soft edge, black: thirty columns, four, thirty."""
    row = [255] * 30 + [200, 150, 100, 50] + [0] * 30
    return PIL.Image.fromarray(np.tile(np.array(row, dtype=np.uint8), (SIZE[1], 1)))


def sources(task: PictureTask, image: Image) -> Sources:
    return Sources(image=image, mask=half_mask() if task == "inpaint" else None)


def pixels(image: Image) -> Any:
    return np.asarray(image.convert("RGB"), dtype=np.int16)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_models_capabilities_say_what_it_does_with_pictures(
    family: str, model: Callable[[str], Model]
) -> None:
    _, descriptor = model(family)
    loras = ("lora",) if family in WIDTHS else ()
    assert descriptor.capabilities == ("generate", *CAN[family], *loras)
    assert descriptor.lora_width == WIDTHS.get(family)


def test_the_table_has_the_classes_that_diffusers_pairs() -> None:
    stock = {
        "edit": AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "image_to_image": AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpaint": AUTO_INPAINT_PIPELINES_MAPPING,
    }
    for own, tasks in TASK_PIPELINES.items():
        for task, name in tasks.items():
            paired = {each.__name__ for each in stock[task].values()}
            assert name in paired or own in NOT_PAIRED
    assert tasks_of("PixArtSigmaPipeline") == ()


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_family_starts_from_a_picture_and_takes_a_step_at_least(
    family: str, task: PictureTask, model: Callable[[str], Model]
) -> None:
    folder, descriptor = model(family)
    loaded = load_on_host(descriptor.kind, folder, "float32", layout=descriptor.layout)
    pipeline = place(loaded, descriptor.kind, CPU, None, task)
    parts = loaded.components
    for name, part in pipeline.pipeline.components.items():
        assert part is parts[name]  # nothing is loaded again

    def drawn(strength: float, image: Image, seed: int = 1) -> tuple[Any, list[tuple[int, int]]]:
        asked, seen = params(strength), list[tuple[int, int]]()
        pipeline.check(asked)
        made, _ = pipeline.picture(asked, seed, lambda *s: seen.append(s), sources(task, image))
        assert made.size == SIZE
        return pixels(made), seen

    weak, steps = drawn(0.01, noise(1))
    assert len(steps) == (4 if family == "lcm" else 1)  # it always takes as many as requested
    assert (drawn(0.01, noise(1))[0] == weak).all()
    assert (drawn(0.01, noise(1), seed=2)[0] != weak).any()
    assert (drawn(0.01, noise(2))[0] != weak).any()
    strong, steps = drawn(1.0, noise(1))
    assert len(steps) == 4
    assert (strong != weak).any()
    if task == "inpaint":
        kept = pixels(noise(1))[:, 34:]
        assert (weak[:, 34:] == kept).all()
        assert (strong[:, 34:] == kept).all()
        assert (strong[:, :34] != pixels(noise(1))[:, :34]).any(axis=(0, 2)).all()


@pytest.mark.parametrize(("steps", "strength"), [(8, 0.1), (40, 0.75), (60, 1.0), (60, 0.05)])
def test_a_consistency_model_takes_all_steps_whatever_the_strength(
    model: Callable[[str], Model], steps: int, strength: float
) -> None:
    folder, descriptor = model("lcm")
    loaded = load_on_host(descriptor.kind, folder, "float32", layout=descriptor.layout)
    pipeline = place(loaded, descriptor.kind, CPU, None, "image_to_image")
    asked, seen = params(strength, steps=steps), list[tuple[int, int]]()
    pipeline.picture(asked, 1, lambda *s: seen.append(s), sources("image_to_image", noise(1)))
    assert len(seen) == steps


def test_an_edit_model_draws_from_its_reference_at_the_size_of_the_request(
    model: Callable[[str], Model],
) -> None:
    folder, descriptor = model("kontext")
    assert (descriptor.kind, descriptor.references) == ("auto", 1)
    assert parameters_schema(descriptor)["properties"]["images"]["maxItems"] == 1
    pipeline = load(descriptor.kind, folder, CPU, None, task="edit")
    asked = GenerateParams(prompt="a cat", width=64, height=48, steps=1, guidance=3.0)

    def drawn(given: Sources) -> Any:
        made, _ = pipeline.picture(asked, 1, lambda *_: None, given)
        assert made.size == SIZE
        return pixels(made)

    first, second = (Sources(references=(noise(seed, (40, 70)),)) for seed in (1, 2))
    assert first.task == "edit"
    assert (drawn(first) == drawn(first)).all()
    assert (drawn(first) != drawn(second)).any()
    assert (drawn(first) != drawn(Sources())).any()


def test_a_pipeline_without_the_task_says_so(model: Callable[[str], Model]) -> None:
    folder, descriptor = model("pixart")
    with pytest.raises(ValueError, match="PixArtSigmaPipeline has no pipeline for inpaint"):
        load(descriptor.kind, folder, CPU, None, task="inpaint")


@pytest.mark.parametrize("steps", [1, 3, 49, 100, 200])
def test_every_number_of_steps_leaves_one(steps: int) -> None:
    assert int(steps * strength_of_a_step(1e-6, steps)) == 1
    assert strength_of_a_step(0.9, steps) == (1.0 if steps == 1 else 0.9)


def test_a_picture_of_another_shape_is_cut_in_its_middle_and_its_mask_with_it() -> None:
    wide = PIL.Image.new("RGB", (200, 50), "red")
    wide.paste("blue", (75, 0, 125, 50))
    mask = PIL.Image.new("L", (200, 50))
    mask.paste(255, (75, 0, 125, 50))
    fitted = Sources(image=wide, mask=mask).fitted(100, 100)
    assert fitted.image is not None
    assert fitted.mask is not None
    assert fitted.image.size == fitted.mask.size == (100, 100)
    assert fitted.image.getpixel((50, 50)) == (0, 0, 255)
    assert fitted.image.getpixel((2, 50)) == (0, 0, 255)
    assert fitted.mask.getpixel((50, 50)) == 255
    assert fitted.mask.getpixel((2, 50)) == 255


def test_what_is_painted_a_little_is_painted_and_then_mixed() -> None:
    image = noise(1)
    given = Sources(image=image, mask=half_mask())
    assert set(np.unique(given.arguments()["mask_image"])) == {0, 255}
    assert (np.asarray(given.arguments()["mask_image"])[:, :34] == 255).all()
    mixed = pixels(given.composite(PIL.Image.new("RGB", SIZE, "black")))
    share = 1 - np.array([200, 150, 100, 50]) / 255
    expected = pixels(image)[:, 30:34] * share[None, :, None]
    assert np.abs(mixed[:, 30:34] - expected).max() <= 1


@pytest.mark.parametrize("task", ["image_to_image", "inpaint"])
def test_golden_pictures_from_pictures_are_what_they_always_were(task: PictureTask) -> None:
    torch.set_num_threads(1)
    made = redraw(load("sd", MODEL, CPU, None, task=task), task)
    assert psnr_db(levels(made), golden(task)) > TOLERANCE_DB["cpu", "float32"]
