"""From a picture to the bytes of its file."""

from __future__ import annotations

import io
from typing import Literal

from PIL.Image import Image

from runner.metadata import Texts, jpeg_exif, png_chunks

# zlib level 1 instead of the usual 6. Measured on 1024 x 1024 pictures with a little noise: 113 ms
# and 1.67 MB against 583 ms and 1.40 MB. The time is the GPU's, the bytes are a disk's.
PNG_COMPRESS_LEVEL = 1
# Visually lossless for photographs; above it files grow fast. 4:4:4 keeps coloured edges sharp.
JPEG_QUALITY = 95


def encode_image(image: Image, format: Literal["png", "jpg"], texts: Texts | None) -> bytes:
    """Encode `image`; without `texts` the file says nothing of how it was made."""
    buffer = io.BytesIO()
    match format:
        case "png":
            chunks = None if texts is None else png_chunks(texts)
            image.save(buffer, "png", compress_level=PNG_COMPRESS_LEVEL, pnginfo=chunks)
        case "jpg":
            exif = b"" if texts is None else jpeg_exif(texts)
            image = image.convert("RGB")
            image.save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0, exif=exif)
    return buffer.getvalue()
