"""What the names and shapes of an ESRGAN's tensors say of it, without loading it.

The family goes by three sets of names: the first release and most trained since (`model.0`), the
later one of the same makers (`conv_first`, `upconv1`, …), and Real-ESRGAN (`conv_up1`, …). Each
enlarging block doubles both sides; a Real-ESRGAN that was made for less folds its input first
(pixel unshuffle: more channels in than out).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from shared.errors import ModelUnavailable
from shared.model_files import ONE_FILE, tensor_shapes

_BLOCK = re.compile(r"(?:upconv|conv_up)(\d)\.weight")
_LAYER = re.compile(r"model\.(\d+)\.weight")
# The layers of the first release that do not enlarge: two at the start, three at the end.
_OTHER_LAYERS = 5
_LAYERS_OF_A_BLOCK = 3


def esrgan_scale(folder: Path) -> int:
    """The native scale of the network in `folder`. Raises `ModelUnavailable` for another one."""
    shapes = tensor_shapes(folder, ONE_FILE)
    if "conv_first.weight" in shapes and "conv_last.weight" in shapes:
        blocks = len([name for name in shapes if _BLOCK.fullmatch(name)])
        first, last = shapes["conv_first.weight"], shapes["conv_last.weight"]
    elif "model.0.weight" in shapes:
        layers = [int(found[1]) for name in shapes if (found := _LAYER.fullmatch(name))]
        blocks = (max(layers) + 1 - _OTHER_LAYERS) // _LAYERS_OF_A_BLOCK
        first, last = shapes["model.0.weight"], shapes[f"model.{max(layers)}.weight"]
    else:
        raise ModelUnavailable(f"{ONE_FILE}: not of the ESRGAN family", file=ONE_FILE)
    folded = math.isqrt(max(1, first[1] // last[0]))
    return int(2**blocks // folded)
