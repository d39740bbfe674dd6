"""The upscaler's shape, four times each side, and its pairs of small and large pictures.

A stock architecture that `spandrel` knows (Compact: convolutions at the small size, one pixel
shuffle at the end), with half of the usual width and half of its layers: a CPU enlarges 64x64 to
256x256 in less time than it takes to draw one step of the small picture.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.upscalers.networks import torchvision_stand_in

SCALE = 4
WIDTH, LAYERS = 32, 8
SMALL, LARGE, DRAWN, CONCEPTS = (
    f"upscaler_{name}" for name in ("small.npy", "large.npy", "drawn.npy", "concepts.json")
)
# Every tenth thing that the demo model knows is never shown to the upscaler in training.
HELD_OUT_EVERY, HELD_OUT_FIRST = 10, 5


def build_upscaler() -> Any:
    """An untrained network that reads and makes colours from 0 to 1."""
    with torchvision_stand_in():
        from spandrel.architectures.Compact import Compact
    return Compact(num_feat=WIDTH, num_conv=LAYERS, upscale=SCALE)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pictures of the same things in the same order: uint8 (N, 3, side, side).

    `drawn` has as many as the demo model knows, and those come first in the others too.
    """

    names: list[str]
    small: Tensor
    large: Tensor
    drawn: Tensor

    @property
    def held_out(self) -> list[int]:
        """The pictures that training leaves out."""
        return list(range(HELD_OUT_FIRST, len(self.drawn), HELD_OUT_EVERY))


def load_pairs(work: Path) -> Pairs:
    """What `training.prepare_upscaler` wrote."""
    return Pairs(
        names=json.loads((work / CONCEPTS).read_text(encoding="utf-8")),
        small=_pictures(work / SMALL),
        large=_pictures(work / LARGE),
        drawn=_pictures(work / DRAWN),
    )


def to_colours(pictures: Tensor) -> Tensor:
    """uint8 to float in [0, 1]."""
    return pictures.float().div(255)


def _pictures(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
