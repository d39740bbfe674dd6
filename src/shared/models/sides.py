"""The sides, in pixels, that a model draws: which multiples, from where to where, and its own.

A pipeline would round a side that is no multiple, and the picture would have another size than was
asked for. What the multiple is follows from the class of the pipeline and from the configuration of
its autoencoder and its transformer.
"""

import math
from pathlib import Path
from typing import Any

from shared.errors import ModelUnavailable
from shared.limits import MAX_SIDE, MIN_SIDE
from shared.models.auto_pipelines import AutoPipeline
from shared.models.families import ModelFamily
from shared.models.folder import INDEX
from shared.models.json_files import read_json

# The lists in an autoencoder's configuration with an entry for each halving of a side, and how many
# entries more than halvings. The last one is of Qwen's, in its own spelling.
_LEVELS = {"block_out_channels": 1, "encoder_block_out_channels": 1, "temperal_downsample": 0}
_MOST_LEVELS = 8  # none halves a side more often


def side_multiple(config: Path, family: ModelFamily, pipeline: AutoPipeline | None) -> int:
    """What width and height must be multiples of, for the folder with this configuration."""
    if family.scale or family.upscaling:
        return family.side_multiple
    transformer = _read(config, "transformer/config.json")
    packed = pipeline.packed if pipeline is not None else None
    if packed is None:
        packed = _positive(transformer.get("patch_size")) or 1
    shrinks = _vae_scale(config) or 1
    least = family.side_multiple if pipeline is None else pipeline.multiple
    return math.lcm(least, shrinks * packed)


def native_side(config: Path, family: ModelFamily, pipeline: AutoPipeline | None) -> int:
    """The side that the model was trained at, by its own configuration if that says it."""
    in_pixels = pipeline is not None and pipeline.in_pixels
    shrinks = _vae_scale(config) or (1 if in_pixels else None)
    for name in ("unet/config.json", "transformer/config.json"):
        sample = _positive(_read(config, name).get("sample_size"))
        if sample is not None and shrinks is not None:
            return sample * shrinks
    # PRX says it in pixels, beside the names of its parts.
    said = _positive(_read(config, INDEX).get("default_sample_size"))
    if said is not None:
        return said
    return family.native_side if pipeline is None else pipeline.native_side


def side_limits(family: ModelFamily, side: int, multiple: int) -> dict[str, Any]:
    """A quarter to four times the native side: beyond that no model draws anything but texture.

    A GAN sees a picture in tiles, so that to it every size is the same.
    """
    low = max(MIN_SIDE, multiple, side // 4 // multiple * multiple)
    span = {"min": low, "max": min(MAX_SIDE, side * 4)}
    if family.upscaling == "gan":
        span = {"min": MIN_SIDE, "max": MAX_SIDE}
    return {"width": span, "height": span}


def _vae_scale(config: Path) -> int | None:
    """How many times the autoencoder makes a side smaller; None without one that says it."""
    vae = _read(config, "vae/config.json")
    for name, more in _LEVELS.items():
        levels = vae.get(name)
        if isinstance(levels, list) and more <= len(levels) <= _MOST_LEVELS + more:
            return int(2 ** (len(levels) - more))
    return None


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _read(config: Path, name: str) -> dict[str, Any]:
    """A configuration, empty for a part that the model does not have."""
    try:
        return read_json(config, name)
    except ModelUnavailable:
        return {}
