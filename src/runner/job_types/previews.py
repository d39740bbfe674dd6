"""Answers the worker's requests for previews while an item is sampled."""

import torch

from runner.diffusion.pipelines import TextToImage
from runner.images.previews import encode_preview
from runner.job_types.base import Context
from shared.protocol.messages import GenerateSpec, Log, Preview


def answer_request(
    ctx: Context[GenerateSpec],
    pipeline: TextToImage,
    index: int,
    latents: torch.Tensor,
    step: int,
    steps: int,
) -> None:
    """Send a preview of item `index` after `step` of `steps`, if one is due. Only the channel's
    own errors are raised."""
    if not ctx.previews.due():
        return
    with ctx.previews.making():
        try:
            encoded = encode_preview(pipeline.preview(latents, ctx.spec.params))
        except Exception as error:  # memory, or half precision: no reason to end the step
            ctx.previews.give_up()
            text = f"no previews of this step: {type(error).__name__}"
            ctx.emit(Log(level="INFO", code="preview.failed", message=text, item_index=index))
            return
        if encoded is not None:
            width, height, jpeg = encoded
            message = Preview(item_index=index, step=step, steps=steps, width=width, height=height)
            ctx.emit(message, jpeg)
