"""Recognise an ESRGAN, and its scale, by the names and shapes of its tensors.

The family has three sets of names: the first release and most trained since (`model.0`), the
later one of the same makers (`conv_first`, `upconv1`, …), and Real-ESRGAN (`conv_up1`, …). Each
enlarging block doubles both sides; a Real-ESRGAN that was made for less folds its input first
(pixel unshuffle: more channels in than out).
"""

import math
import re

from shared.errors import ModelUnavailable
from shared.models.folder import ONE_FILE
from shared.models.safetensors_header import Shapes

_BLOCK = re.compile(r"(?:upconv|conv_up)(\d)\.weight")
_LAYER = re.compile(r"model\.(\d{1,3})\.weight")
# The residual dense blocks that the family is made of, by its three sets of names. Others share the
# names around them.
_DENSE_BLOCKS = (
    "model.1.sub.0.RDB1.conv1.0.weight",
    "RRDB_trunk.0.RDB1.conv1.weight",
    "body.0.rdb1.conv1.weight",
)
# The layers of the first release that do not enlarge: two at the start, three at the end.
_OTHER_LAYERS = 5
_LAYERS_OF_A_BLOCK = 3
_MOST_BLOCKS = 3  # eight times as large; nothing beyond was ever published


_COLOURS = 3  # what a picture has, and so what a network reads and makes


def esrgan_scale(shapes: Shapes) -> int | None:
    """The native scale of the network with these tensors; None: not one of the family.

    Raises `ModelUnavailable` for one of the family that does not read and make colours.
    """
    ends = _ends(shapes)
    if ends is None:
        return None
    blocks, first, last = ends
    if len(first) != 4 or len(last) != 4 or not last[0] or not 0 <= blocks <= _MOST_BLOCKS:
        return None
    folded = math.isqrt(first[1] // _COLOURS)
    if last[0] != _COLOURS or first[1] != _COLOURS * folded**2 or folded not in (1, 2, 4):
        raise ModelUnavailable(
            f"{ONE_FILE}: an ESRGAN of {first[1]} channels to {last[0]}; wanted is one of 3 to 3, "
            "or of 12 or 48 to 3, which folds its input first",
            file=ONE_FILE,
        )
    return 2**blocks // folded or None


def _ends(shapes: Shapes) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """How many blocks enlarge, and the shapes of the first and the last convolution."""
    if not any(sign in shapes for sign in _DENSE_BLOCKS):
        return None
    if "conv_first.weight" in shapes and "conv_last.weight" in shapes:
        blocks = len([name for name in shapes if _BLOCK.fullmatch(name)])
        return blocks, shapes["conv_first.weight"], shapes["conv_last.weight"]
    if "model.0.weight" in shapes:
        layers = [int(match[1]) for name in shapes if (match := _LAYER.fullmatch(name))]
        blocks = (max(layers) + 1 - _OTHER_LAYERS) // _LAYERS_OF_A_BLOCK
        return blocks, shapes["model.0.weight"], shapes[f"model.{max(layers)}.weight"]
    return None
