"""Pictures as sixels: the graphics of VT340 terminals, which xterm, foot and others still know.

A band is six rows high. For each colour in it a row of characters says which of a column's six
pixels have it: bit 0 is the topmost. `$` goes back to the start of the band, `-` to the next one,
`!5~` stands for five times `~`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

COLORS = 128
_BAND = 6
_FIRST = 63  # "?", which sets no pixel
_RUN = re.compile(r"(.)\1{3,}")


def encode(picture: Image) -> str:
    """The sequence that draws `picture` (RGB) at the cursor, as large as it is."""
    from PIL.Image import Dither

    reduced = picture.quantize(COLORS, dither=Dither.FLOYDSTEINBERG)
    width, height = reduced.size
    pixels = reduced.tobytes()
    rows = [pixels[start : start + width] for start in range(0, width * height, width)]
    bands = (rows[start : start + _BAND] for start in range(0, height, _BAND))
    palette = _palette(reduced.getpalette() or [], max(pixels) + 1)
    drawn = "-".join(_encode_band(band, width) for band in bands)
    # 0;1: pixels that no colour is given for keep theirs. The sizes are aspect ratio and extent.
    return f'\x1bP0;1;0q"1;1;{width};{height}{palette}{drawn}\x1b\\'


def _palette(values: list[int], colors: int) -> str:
    """Each register's red, green and blue, in percent."""
    parts = [
        ";".join(str(round(value * 100 / 255)) for value in values[3 * index : 3 * index + 3])
        for index in range(colors)
    ]
    return "".join(f"#{index};2;{part}" for index, part in enumerate(parts))


def _encode_band(rows: list[bytes], width: int) -> str:
    layers: dict[int, bytearray] = {}
    for bit, row in enumerate(rows):
        for column, color in enumerate(row):
            if color not in layers:
                layers[color] = bytearray([_FIRST]) * width
            layers[color][column] += 1 << bit
    return "$".join(f"#{color}{_shortened(layer)}" for color, layer in layers.items())


def _shortened(layer: bytearray) -> str:
    text = layer.decode("ascii").rstrip(chr(_FIRST))
    return _RUN.sub(lambda run: f"!{len(run[0])}{run[1]}", text)
