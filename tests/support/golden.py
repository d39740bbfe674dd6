"""Golden pictures of the models that ship: draw them, compare them, and make new ones.

`python -m tests.support.golden` writes them again, on the CPU; do so when the model changes, never
to make a test pass. `tests/unit/golden/README.md` says with what the present ones were made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from runner.diffusion.pipelines import TextToImage, load
from runner.diffusion.sources import Sources
from runner.upscalers.gan import GanUpscaler
from runner.upscalers.networks import load_network
from shared.models.folder import ONE_FILE
from shared.models.picture_tasks import PictureTask
from shared.models.verify import read_model
from shared.protocol.messages import (
    Dtype,
    GanParams,
    GenerateParams,
    InputSpec,
    ModelSpec,
    PresetSpec,
)

MODEL = Path(__file__).parents[2] / "models" / "sd" / "dreamforge-demo@1"
UPSCALER = Path(__file__).parents[2] / "models" / "network" / "dreamforge-upscaler@1"
FOLDER = Path(__file__).parents[1] / "unit" / "golden"
PROMPTS = ("red apple", "green apple", "banana", "blue heart", "pumpkin")
SEED = 0

# Signal to noise in dB, at least. Other processors round otherwise, which no eye sees (86 dB);
# half precision rounds after three digits (52 dB), and so do a GPU's convolutions in TF32;
# another apple is below 20.
TOLERANCE_DB: dict[tuple[str, str], float] = {
    ("cpu", "float32"): 60.0,
    ("cpu", "bfloat16"): 40.0,
    ("cuda", "float32"): 40.0,
    ("cuda", "float16"): 40.0,
    ("cuda", "bfloat16"): 40.0,
}
CPU = PresetSpec(name="cpu", version=2, device="cpu", dtype="float32", threads=1)


def draw(loaded: TextToImage, prompt: str, seed: int = SEED) -> Image.Image:
    """The picture of `prompt` at the model's defaults."""
    defaults = read_model(MODEL).defaults
    params = GenerateParams(
        prompt=prompt,
        width=defaults.width,
        height=defaults.height,
        steps=defaults.steps,
        guidance=defaults.guidance,
    )
    image, blocked = loaded.picture(params, seed, lambda step, steps: None)
    assert not blocked
    return image


# A green apple of the red one, and a pumpkin in place of the upper half of it.
REDRAWN: dict[PictureTask, str] = {"image_to_image": "green apple", "inpaint": "pumpkin"}


def redraw(loaded: TextToImage, task: PictureTask, seed: int = SEED) -> Image.Image:
    """The picture that `task` makes of the golden red apple."""
    defaults = read_model(MODEL).defaults
    image = Image.open(_path("red apple")).convert("RGB")
    mask = None
    if task == "inpaint":
        mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, image.width, image.height // 2))
    params = GenerateParams(
        prompt=REDRAWN[task],
        width=image.width,
        height=image.height,
        steps=defaults.steps,
        guidance=defaults.guidance,
        strength=0.75,
    )
    made, blocked = loaded.picture(
        params, seed, lambda step, steps: None, Sources(image=image, mask=mask)
    )
    assert not blocked
    return made


def enlarge(dtype: Dtype = "float32", device: Literal["cpu", "cuda"] = "cpu") -> Image.Image:
    """The golden red apple, four times each side."""
    descriptor = read_model(UPSCALER)
    image = Image.open(_path("red apple")).convert("RGB")
    spec = ModelSpec(
        id="golden",
        name=descriptor.name,
        version=descriptor.version,
        kind=descriptor.kind,
        folder=str(UPSCALER),
        checkpoint_sha256=descriptor.checkpoint_sha256,
    )
    source = InputSpec(
        item_index=0,
        format="png",
        width=image.width,
        height=image.height,
        seed=SEED,
        sha256="0" * 64,
    )
    upscaler = GanUpscaler(
        load_network(UPSCALER / ONE_FILE),
        spec,
        GanParams(scale=4, native_scale=4),
        CPU.model_copy(update={"dtype": dtype, "device": device}),
    )
    return upscaler.enlarge(image, source, lambda done, total: None)


def levels(image: Image.Image) -> Any:
    """Height x width x 3, from 0 to 1."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def golden(prompt: str) -> Any:
    return levels(Image.open(_path(prompt)))


def psnr_db(made: Any, wanted: Any) -> float:
    return float(-10 * np.log10(np.mean((made - wanted) ** 2) + 1e-12))


def _path(prompt: str) -> Path:
    return FOLDER / f"{prompt.replace(' ', '_')}_seed{SEED}.png"


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline = load("sd", MODEL, CPU, None)
    for name in PROMPTS:
        draw(pipeline, name).save(_path(name))
    for task in REDRAWN:
        redraw(load("sd", MODEL, CPU, None, task=task), task).save(_path(task))
    enlarge().save(_path("enlarged"))
