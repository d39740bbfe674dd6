"""What a pipeline can do with pictures, by its class: image to image, inpainting, editing.

A model is loaded once, as the pipeline that draws from a text. That of a task is made of the same
parts (`runner.diffusion.tasks`). A class without an entry starts from a text alone; a test draws
with each of the others.
"""

from collections.abc import Mapping
from typing import Literal, get_args

PictureTask = Literal["image_to_image", "inpaint", "edit"]
TASKS: tuple[PictureTask, ...] = get_args(PictureTask)
DEFAULT_STRENGTH = 0.75

TASK_PIPELINES: Mapping[str, Mapping[PictureTask, str]] = {
    **{
        f"{name}Pipeline": {
            "image_to_image": f"{name}Img2ImgPipeline",
            "inpaint": f"{name}InpaintPipeline",
        }
        for name in (
            *("StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux"),
            *("StableDiffusionPAG", "StableDiffusionXLPAG", "QwenImage", "ZImage"),
        )
    },
    "StableDiffusion3PAGPipeline": {"image_to_image": "StableDiffusion3PAGImg2ImgPipeline"},
    "Kandinsky3Pipeline": {"image_to_image": "Kandinsky3Img2ImgPipeline"},
    "QwenImageEditPipeline": {"edit": "QwenImageEditPipeline"},
    "QwenImageEditPlusPipeline": {"edit": "QwenImageEditPlusPipeline"},
    "Flux2Pipeline": {"edit": "Flux2Pipeline"},
    "Flux2KleinPipeline": {"inpaint": "Flux2KleinInpaintPipeline", "edit": "Flux2KleinPipeline"},
    # Its inpainting pipeline of diffusers 0.42 asks the transformer for an entry that it has not.
    "ChromaPipeline": {"image_to_image": "ChromaImg2ImgPipeline"},
    "FluxKontextPipeline": {"edit": "FluxKontextPipeline"},
    "LatentConsistencyModelPipeline": {"image_to_image": "LatentConsistencyModelImg2ImgPipeline"},
}

# How many pictures an edit pipeline works on at once: it takes a list of them for a batch.
REFERENCES: Mapping[str, int] = {
    "FluxKontextPipeline": 1,
    "Flux2Pipeline": 8,
    "QwenImageEditPipeline": 1,
    "QwenImageEditPlusPipeline": 3,  # its makers say so
    "Flux2KleinPipeline": 8,
}


def tasks_of(pipeline: str) -> tuple[PictureTask, ...]:
    """What models of this class of pipeline can do with pictures."""
    return tuple(task for task in TASKS if task in TASK_PIPELINES.get(pipeline, {}))
