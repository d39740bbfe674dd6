"""From a picture to the bytes of its file."""

import io
import zlib

import PIL.Image
from PIL.Image import Image

from runner.images.metadata import EmbeddedMetadata, jpeg_comment, jpeg_exif, png_chunks, webp_exif
from shared.protocol.messages import JPEG_QUALITY, Format

# Runs instead of matches: what PNG's filters leave of a picture repeats itself nearby or nowhere.
# Measured (benchmarks/pictures): files as small as at the usual level 6, in a third of its time.
PNG_COMPRESS_LEVEL = 1
PNG_STRATEGY = zlib.Z_RLE
WEBP_EFFORT = 75


def encode_image(
    image: Image,
    format: Format,
    metadata: EmbeddedMetadata | None,
    *,
    jpeg_quality: int = JPEG_QUALITY,
    webp_quality: int | None = None,
) -> bytes:
    """Encode `image`; without `metadata` the file says nothing about its making."""
    buffer = io.BytesIO()
    match format:
        case "png":
            image.save(
                buffer,
                "png",
                compress_level=PNG_COMPRESS_LEVEL,
                compress_type=PNG_STRATEGY,
                pnginfo=None if metadata is None else png_chunks(metadata),
            )
        case "jpg":
            opaque(image).save(
                buffer,
                "jpeg",
                quality=jpeg_quality,
                subsampling=0,  # 4:4:4 keeps coloured edges sharp
                exif=b"" if metadata is None else jpeg_exif(metadata),
                comment=b"" if metadata is None else jpeg_comment(metadata),
            )
        case "webp":
            image.save(
                buffer,
                "webp",
                lossless=webp_quality is None,
                # Of a lossless file it is the effort; the format's makers recommend this one.
                quality=WEBP_EFFORT if webp_quality is None else webp_quality,
                exif=b"" if metadata is None else webp_exif(metadata),
            )
    return buffer.getvalue()


def opaque(image: Image) -> Image:
    """Without transparency, as it looks on white paper; a JPEG has none.

    The colours of transparent pixels were not meant to be seen, and are mostly black.
    """
    if not image.has_transparency_data:
        return image.convert("RGB")
    drawn = image if image.mode == "RGBA" else image.convert("RGBA")
    on_paper = PIL.Image.new("RGBA", image.size, "white")
    on_paper.alpha_composite(drawn)
    return on_paper.convert("RGB")
