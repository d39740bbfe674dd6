"""How fast and how small: PNG and JPEG settings of the encoder, on pictures of several characters.

`python benchmarks/pictures/png_levels.py` prints the table of README.md beside it. All settings run
in one process, each picture in turn, several times; the best time of each counts.
"""

from __future__ import annotations

import io
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

SIDE = 1024
ROUNDS = 5
SAMPLES = Path(__file__).parents[2] / "models" / "sd" / "dreamforge-demo@1" / "samples.png"

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "png level 0": ("png", {"compress_level": 0}),
    "png level 1": ("png", {"compress_level": 1}),
    "png level 2": ("png", {"compress_level": 2}),
    "png level 3": ("png", {"compress_level": 3}),
    "png level 6": ("png", {"compress_level": 6}),
    "png level 9": ("png", {"compress_level": 9}),
    "png level 1, RLE": ("png", {"compress_level": 1, "compress_type": zlib.Z_RLE}),
    "png level 1, Huffman": ("png", {"compress_level": 1, "compress_type": zlib.Z_HUFFMAN_ONLY}),
    "jpg quality 85": ("jpeg", {"quality": 85, "subsampling": 0}),
    "jpg quality 95": ("jpeg", {"quality": 95, "subsampling": 0}),
    "jpg quality 100": ("jpeg", {"quality": 100, "subsampling": 0}),
}


def pictures() -> dict[str, Image.Image]:
    """A model's own drawings, enlarged; the same with the grain of a photograph; and noise."""
    smooth = Image.open(SAMPLES).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grain = Image.merge("RGB", [Image.effect_noise((SIDE, SIDE), 6) for _ in range(3)])
    # effect_noise has its mean at 128; taken off again, it brightens nothing.
    grained = ImageChops.add(smooth, grain, offset=-128)
    noise = Image.merge("RGB", [Image.effect_noise((SIDE, SIDE), 80) for _ in range(3)])
    return {"smooth": smooth, "grained": grained, "noise": noise}


def encode(image: Image.Image, format: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def main() -> None:
    shown = pictures()
    write = sys.stdout.write
    write(f"{SIDE}x{SIDE}, Pillow {Image.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}\n\n")
    write("| setting | " + " | ".join(f"{name}: ms, MB" for name in shown) + " |\n")
    write("|---|" + "---|" * len(shown) + "\n")
    best: dict[tuple[str, str], tuple[float, int]] = {}
    for _ in range(ROUNDS):
        for setting, (format, options) in SETTINGS.items():
            for name, image in shown.items():
                began = time.perf_counter()
                size = len(encode(image, format, options))
                took = time.perf_counter() - began
                known = best.get((setting, name), (took, size))
                best[setting, name] = (min(took, known[0]), size)
    for setting in SETTINGS:
        cells = (best[setting, name] for name in shown)
        write(
            f"| {setting} | "
            + " | ".join(f"{s * 1e3:.0f}, {b / 1e6:.2f}" for s, b in cells)
            + " |\n"
        )


if __name__ == "__main__":
    main()
