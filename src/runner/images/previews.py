"""Encodes a preview and sends it."""

from io import BytesIO

from PIL.Image import Image

from runner.ipc.channel import Emit
from shared.protocol.messages import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE, Preview

QUALITY = 75


def send_preview(picture: Image | None, index: int, step: int, steps: int, emit: Emit) -> None:
    """Send a preview of item `index` after `step` of `steps`; nothing where there is no picture."""
    if picture is None:
        return
    picture.thumbnail((MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    if len(body := file.getvalue()) <= MAX_PREVIEW_BYTES:
        width, height = picture.size
        emit(Preview(item_index=index, step=step, steps=steps, width=width, height=height), body)
