"""Encodes a preview."""

from io import BytesIO

from PIL.Image import Image

from shared.protocol.messages import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE

QUALITY = 75


def encode_preview(picture: Image | None) -> tuple[int, int, bytes] | None:
    """Width, height and JPEG of a preview; None where there is no picture, or no small one."""
    if picture is None:
        return None
    picture.thumbnail((MAX_PREVIEW_SIDE, MAX_PREVIEW_SIDE))
    file = BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    jpeg = file.getvalue()
    return (*picture.size, jpeg) if len(jpeg) <= MAX_PREVIEW_BYTES else None
