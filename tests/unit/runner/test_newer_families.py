"""Every other class that `auto` loads: tiny, with random weights, from its folder to a picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from PIL.Image import Image
from tests.support.families import AUTO, FAMILIES, build_of, describe, t5_tokenizer
from tests.support.newer_families import NEWER
from tests.support.other_families import OTHERS

from runner.diffusion.fit import misfits
from runner.diffusion.pipelines import TextToImage, load_on_host, place
from runner.diffusion.prompts import find_truncations, truncations_of
from runner.diffusion.sources import Sources
from shared.models.auto_pipelines import AUTO_PIPELINES
from shared.models.components import CLASSES
from shared.models.descriptor import ModelDescriptor, parameter_problems, parameters_schema
from shared.models.folder import INDEX
from shared.models.picture_tasks import PictureTask
from shared.protocol.messages import GenerateParams, PresetSpec

# diffusers hands torch tensors to numpy in the way of numpy 1, and uses what it calls outdated;
# nothing of ours.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    *(
        pytest.mark.filterwarnings(f"ignore:`{outdated}` is deprecated:FutureWarning")
        for outdated in ("LoraLoaderMixin", "FluxPosEmbed", "callback_steps")
    ),
]

CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)


@dataclass(frozen=True, slots=True)
class Family:
    """What is expected of a class: sides, what it does with pictures, where it cuts a prompt.

    What is taken off a cut are tokens of what stands around the prompt.
    """

    pipeline: str
    multiple: int
    cuts: tuple[tuple[str, int], ...]
    tasks: tuple[PictureTask, ...] = ()


CLIP = ("CLIP", 77)
BOTH: tuple[PictureTask, ...] = ("image_to_image", "inpaint")
EXPECTED = {
    "sana": Family("SanaPipeline", 32, (("Gemma", 300 - 1),)),
    "qwen_image": Family("QwenImagePipeline", 16, (("Qwen2", 512),), BOTH),
    "z_image": Family("ZImagePipeline", 16, (("Qwen2", 512 - 6),), BOTH),
    "z_image_omni": Family("ZImageOmniPipeline", 16, (("Qwen2", 512 - 6),)),
    "flux2": Family("Flux2Pipeline", 16, (("Qwen2", 512 - 184),), ("edit",)),
    "flux2_klein": Family("Flux2KleinPipeline", 16, (("Qwen2", 512 - 6),), ("inpaint", "edit")),
    "lumina": Family("LuminaPipeline", 16, (("Gemma", 256),)),
    "lumina2": Family("Lumina2Pipeline", 16, (("Gemma", 256 - 163),)),
    "krea2": Family("Krea2Pipeline", 16, (("Qwen2", 512 - 5),)),
    "ideogram4": Family("Ideogram4Pipeline", 16, (("Qwen2", 2048),)),
    "ovis": Family("OvisImagePipeline", 16, (("Qwen2", 256),)),
    "aura_flow": Family("AuraFlowPipeline", 16, (("T5", 256),)),
    "cogview3": Family("CogView3PlusPipeline", 16, (("T5", 224),)),
    "cogview4": Family("CogView4Pipeline", 16, (("Gemma", 1024),)),
    "prx": Family("PRXPipeline", 16, (("Gemma", 64),)),
    "pixart_alpha": Family("PixArtAlphaPipeline", 16, (("T5", 120),)),
    "pixart_sigma_pag": Family("PixArtSigmaPAGPipeline", 16, (("T5", 300),)),
    "hunyuan": Family("HunyuanDiTPipeline", 16, (("Bert", 77), ("T5", 256))),
    "hunyuan_pag": Family("HunyuanDiTPAGPipeline", 16, (("Bert", 77), ("T5", 256))),
    "deep_floyd": Family("IFPipeline", 8, (("T5", 77),)),
    "kandinsky3": Family("Kandinsky3Pipeline", 64, (("T5", 128),), ("image_to_image",)),
    "kandinsky22": Family("KandinskyV22CombinedPipeline", 64, (CLIP,)),
    "sana_pag": Family("SanaPAGPipeline", 32, (("Gemma", 300 - 1),)),
    "sd_pag": Family("StableDiffusionPAGPipeline", 8, (CLIP,), BOTH),
    "sdxl_pag": Family("StableDiffusionXLPAGPipeline", 8, (CLIP,), BOTH),
    "sd3_pag": Family("StableDiffusion3PAGPipeline", 16, (CLIP, ("T5", 256)), ("image_to_image",)),
}
# Why a class has no tiny model here, by the part of it that cannot be made.
FILMS = "transformers makes this processor only with torchvision, which these tests do not have"
ELSEWHERE = "this class is neither in diffusers nor in transformers, so its folders are refused"
TOKENS = "it first writes the picture as so many tokens; random weights write others, and an end"
NOT_BUILT = {
    "NucleusMoEImagePipeline": ("Qwen3VLProcessor", FILMS),
    "QwenImage21Pipeline": ("Qwen3VLProcessor", FILMS),
    "QwenImageEditPipeline": ("Qwen2VLProcessor", FILMS),
    "QwenImageEditPlusPipeline": ("Qwen2VLProcessor", FILMS),
    "GlmImagePipeline": ("GlmImageForConditionalGeneration", TOKENS),
    "KandinskyCombinedPipeline": ("MultilingualCLIP", ELSEWHERE),
    "StableCascadeCombinedPipeline": ("PaellaVQModel", ELSEWHERE),
    "WuerstchenCombinedPipeline": ("PaellaVQModel", ELSEWHERE),
}
# diffusers 0.42 counts the pictures of a step wrongly where there is no guidance.
WANTS_GUIDANCE = "hunyuan_pag"
# Relatives of what is drawn anyway, and those whose text encoders have many layers.
SLOW = {
    *(
        "flux2",
        "flux2_klein",
        "ideogram4",
        "kandinsky3",
        "lumina",
        "cogview3",
        "pixart_alpha",
        "hunyuan_pag",
    ),
    *("pixart_sigma_pag", "sana_pag", "sd_pag", "sdxl_pag", "sd3_pag"),
}
MARKS = {name: [pytest.mark.slow] if name in SLOW else [] for name in EXPECTED}
NAMES = [pytest.param(name, marks=marks) for name, marks in MARKS.items()]
CASES = [
    pytest.param(name, task, marks=MARKS[name])
    for name, family in EXPECTED.items()
    for task in family.tasks
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    folder: Path
    descriptor: ModelDescriptor
    loaded: Any

    def placed(self, task: PictureTask | None = None) -> TextToImage:
        return place(self.loaded, "auto", CPU, None, task)

    def params(self, **changes: Any) -> GenerateParams:
        """A picture of two tiles of the model, one beside the other."""
        multiple = self.descriptor.side_multiple or 0
        given = {"prompt": "a cat", "width": 2 * multiple, "height": multiple, "steps": 2}
        return GenerateParams.model_validate(given | {"guidance": 3.0} | changes)


Model = Callable[[str], Built]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model, built and loaded once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root = tmp_path_factory.mktemp("families")

    @cache
    def get(name: str) -> Built:
        folder = root / name
        descriptor = build_of((NEWER | OTHERS)[name], name, folder, "auto")
        loaded = load_on_host("auto", folder, "float32", layout=descriptor.layout)
        return Built(folder=folder, descriptor=descriptor, loaded=loaded)

    return get


def pixels(image: Image) -> Any:
    return np.asarray(image.convert("RGB"), dtype=np.int16)


def noise(seed: int, size: tuple[int, int]) -> Image:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels)


def test_every_class_of_auto_is_drawn_with_or_has_a_reason() -> None:
    drawn = {family.pipeline for family in EXPECTED.values()}
    stock = {type(FAMILIES[name]()).__name__ for name in (*AUTO, "sd", "sdxl", "sd3", "flux")}
    assert EXPECTED.keys() == (NEWER | OTHERS).keys()
    assert drawn | stock | NOT_BUILT.keys() == AUTO_PIPELINES.keys()
    for part, reason in NOT_BUILT.values():
        if reason == FILMS:
            with pytest.raises(ImportError, match="Torchvision"):
                getattr(transformers, part.replace("Processor", "VideoProcessor"))()
        else:
            known = part in CLASSES["diffusers"] | CLASSES["transformers"]
            assert known == (reason == TOKENS)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_auto_fits_loads_and_draws(name: str, model: Model) -> None:
    built, expected = model(name), EXPECTED[name]
    assert type(built.loaded).__name__ == expected.pipeline
    assert built.descriptor.capabilities == ("generate", *expected.tasks)
    assert built.descriptor.side_multiple == expected.multiple
    assert misfits(built.folder) == []
    pipeline, asked = built.placed(), built.params()
    pipeline.check(asked)
    seen: list[tuple[int, int]] = []
    shown: list[Image | None] = []
    image, blocked = pipeline.picture(
        asked,
        1,
        lambda *step: seen.append(step),
        on_latents=lambda latents, *_: shown.append(pipeline.preview(latents, asked)),
    )
    assert (image.size, blocked) == ((asked.width, asked.height), False)
    assert seen == [(1, 2), (2, 2)]
    assert [each.mode for each in shown if each is not None] in (["RGB"], [])
    assert np.ptp(pixels(image)) > 10, "nothing can be said of a picture of one colour"
    if name != WANTS_GUIDANCE:
        unguided, _ = pipeline.picture(built.params(guidance=0.0), 1, lambda *_: None)
        assert (pixels(unguided) != pixels(image)).any()
    found = find_truncations(pipeline, built.params(prompt="cats " * 800 + "zebra"))
    assert tuple((cut.reader, cut.limit) for cut in found) == expected.cuts
    assert all(cut.unread.replace(" ", "").endswith("catszebra") for cut in found)
    odd = {"width": asked.width + expected.multiple // 2}
    assert parameter_problems(built.descriptor, odd) == {
        "width": f"must be a multiple of {expected.multiple}"
    }


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_class_of_auto_starts_from_pictures(name: str, task: PictureTask, model: Model) -> None:
    built = model(name)
    pipeline = built.placed(task)
    strength = {} if task == "edit" else {"strength": 0.01}
    asked, seen = built.params(**strength), list[tuple[int, int]]()
    size = (asked.width, asked.height)
    mask = PIL.Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))

    def drawn(seed: int) -> Any:
        given = Sources(image=noise(seed, size), mask=mask if task == "inpaint" else None)
        if task == "edit":  # two at once; some want 64 pixels of each
            given = Sources(references=(noise(seed, (64, 72)), noise(9, (72, 64))))
        pipeline.check(asked)
        made, _ = pipeline.picture(asked, 1, lambda *step: seen.append(step), given)
        assert made.size == size
        return pixels(made)

    first, second = drawn(1), drawn(2)
    assert (first != second).any()
    assert len(seen) == 2 * (2 if task == "edit" else 1)  # as little strength as one step
    if task == "inpaint":
        kept = (slice(None), slice(size[0] // 2, None))
        assert (first[kept] == pixels(noise(1, size))[kept]).all()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS[name]) for name in ("sana", "z_image", "flux2", "lumina2")],
)
def test_a_prompt_is_cut_where_it_is_said_to_be(name: str, model: Model) -> None:
    built = model(name)
    pipeline = built.placed()
    side = built.descriptor.side_multiple

    def asked(text: str) -> GenerateParams:
        return built.params(prompt=text, width=side, height=side, steps=1)

    def drawn(text: str) -> Any:
        return pixels(pipeline.picture(asked(text), 1, lambda *_: None)[0])

    (cut,) = find_truncations(pipeline, asked("c" * 3000))
    marks = len(pipeline.pipeline.tokenizer("")["input_ids"])
    fits = "c" * (cut.limit - marks)
    assert find_truncations(pipeline, asked(fits)) == []
    (one,) = find_truncations(pipeline, asked(fits + "b"))
    assert (one.unread, one.tokens) == ("b", cut.limit + 1)
    assert (drawn(fits + "b") == drawn(fits)).all()
    assert (drawn(fits[:-1] + "b") != drawn(fits)).any()


def test_a_task_cuts_a_prompt_where_its_class_does() -> None:
    parts = {"tokenizer": t5_tokenizer()}
    task = type("Kandinsky3Img2ImgPipeline", (), {"components": parts})()
    asked = GenerateParams(prompt="c" * 200, width=64, height=64, steps=1, guidance=3.0)
    assert [cut.limit for cut in truncations_of(task, asked)] == [128]


@pytest.mark.parametrize(
    ("pipeline", "most"), [("QwenImageEditPipeline", 1), ("QwenImageEditPlusPipeline", 3)]
)
def test_what_only_edits_says_so(pipeline: str, most: int, model: Model, tmp_path: Path) -> None:
    folder = shutil.copytree(model("qwen_image").folder, tmp_path / "edit")
    (folder / "processor").mkdir()
    (folder / "processor/preprocessor_config.json").write_text("{}")
    index = json.loads((folder / INDEX).read_text())
    index |= {"_class_name": pipeline, "processor": ["transformers", "Qwen2VLProcessor"]}
    (folder / INDEX).write_text(json.dumps(index))
    descriptor = describe(folder, "edit", "auto")
    assert (descriptor.capabilities, descriptor.references) == (("edit",), most)
    takes = parameters_schema(descriptor)["properties"]
    assert takes["images"]["maxItems"] == most
    assert takes.keys().isdisjoint({"image", "strength", "mask"})
