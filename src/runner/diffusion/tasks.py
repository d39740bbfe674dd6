"""The pipeline that does a task with pictures, made of the parts of a loaded one.

The parts are shared and not loaded again, so a model that a template keeps warm serves every task.
diffusers' own `from_pipe` of a pipeline would cast all of them to one dtype, and that of its
`AutoPipeline` classes imports every pipeline that there is, a second's work for each step.
"""

import inspect
from typing import Any

import diffusers

from shared.models.picture_tasks import TASK_PIPELINES, PictureTask

# A denoiser that was trained for inpainting gets mask and masked picture as channels beside the
# latents. The inpainting pipelines of Stable Diffusion tell it by the number of its channels; these
# are the numbers of one that gets latents alone, as every one that draws from a text. With another
# autoencoder it is another number: 16 in the demo model.
LATENTS_ALONE = {"unet": 4, "transformer": 16}


def for_task(pipeline: Any, task: PictureTask | None) -> Any:
    """`pipeline` itself where it does the task already. Raises ValueError where no class can."""
    name = type(pipeline).__name__
    wanted = name if task is None else TASK_PIPELINES.get(name, {}).get(task)
    if wanted is None:
        raise ValueError(f"{name} has no pipeline for {task}")
    if wanted == name:
        return pipeline
    stock_class = getattr(diffusers, wanted)
    known = {**pipeline.config, **pipeline.components}
    taken = inspect.signature(stock_class.__init__).parameters.keys() & known.keys()
    _mark_latents_alone(pipeline, task)
    made = stock_class(**{part: known[part] for part in taken})
    made.set_progress_bar_config(disable=True)
    return made


def _mark_latents_alone(pipeline: Any, task: PictureTask | None) -> None:
    parts = pipeline.components
    for name, channels in LATENTS_ALONE.items() if task == "inpaint" else ():
        denoiser, vae = parts.get(name), parts.get("vae")
        if denoiser is None or vae is None:
            continue
        if denoiser.config.in_channels == getattr(vae.config, "latent_channels", None):
            denoiser.register_to_config(in_channels=channels)
