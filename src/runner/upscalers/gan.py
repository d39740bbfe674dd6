"""Enlarging with a network that needs one pass, such as a GAN of the ESRGAN family.

`runner.upscalers.networks` loads it. A picture goes through it in tiles. spandrel pads a tile to
the sizes that a network asks for and cuts the result. What a network does not know is resampled
beside it: transparency for one of colours, colours for one of grey.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image

from runner.diffusion.placement import DTYPES
from runner.upscalers.base import OnStep
from runner.upscalers.networks import check_network, refuse_infinite
from runner.upscalers.resample import resample
from runner.upscalers.tiling import enlarge_in_tiles
from shared.errors import ModelUnavailable
from shared.models.folder import ONE_FILE
from shared.protocol.messages import Dtype, GanParams, InputSpec, Log, ModelSpec, PresetSpec

# For a network that looks at a whole picture to decide about a part, and should not be given tiles:
# these are as large as the memory of its kind allows, and what fits into one is not cut at all.
LARGE_TILE = 256
COLOURS = 3
SAMPLE = (24, 40)  # pixels; no window of a network is as large


class GanUpscaler:
    """A loaded network on its device; `name` is the model's."""

    def __init__(
        self, network: Any, model: ModelSpec, params: GanParams, preset: PresetSpec
    ) -> None:
        """`network` of `load_network`. Raises `ModelUnavailable` when it is another than the step
        says."""
        check_network(ONE_FILE, network)
        if network.scale != params.native_scale:
            raise ModelUnavailable(
                f"{ONE_FILE}: makes sides {network.scale} times as large, not "
                f"{params.native_scale} times, as its descriptor says"
            )
        self.name = f"{model.name}@{model.version}"
        self._scale = params.native_scale
        self._channels = network.input_channels
        self._tiles = {} if network.tiling.name == "SUPPORTED" else {"tile": LARGE_TILE}
        self._device, self._network = preset.device, network.eval()
        self.dtype = _place(network, preset.device, preset.dtype)
        self.remarks = () if self.dtype == preset.dtype else (_raised(network, preset.dtype),)
        refuse_infinite(network)

    def enlarge(self, image: Image, source: InputSpec, on_step: OnStep) -> Image:
        """`image` at the network's own scale; `on_step` after each tile, and it may raise."""
        torch.manual_seed(source.seed)  # a few draw noise: the same picture each time

        def through(piece: Image) -> Image:
            with torch.inference_mode():
                larger = enlarge_in_tiles(
                    _tensor(piece), self._scale, self._piece, on_step, **self._tiles
                )
                return _image(larger)

        return _WAYS[self._channels](image, through)

    def _piece(self, tile: torch.Tensor) -> torch.Tensor:
        batch = tile.unsqueeze(0).to(self._device, DTYPES[self.dtype])
        result: torch.Tensor = self._network(batch)[0]
        expected = (tile.shape[0], *(side * self._scale for side in tile.shape[1:]))
        if tuple(result.shape) != expected:
            raise ValueError(f"the network made {tuple(result.shape)} numbers, not {expected}")
        return result


def _place(network: Any, device: str, dtype: Dtype) -> Dtype:
    """Bring a network to its device, in the preset's precision or else in float32; which of them.

    Some networks are known to make no sense in half precision, and some make a part of their
    numbers in float32 and then refuse to mix them: a small picture of an odd size shows that.
    """
    known = {
        "float16": network.supports_half,
        "bfloat16": network.supports_bfloat16,
        "float32": True,
    }
    works = known[dtype] and (dtype == "float32" or _works(network, device, DTYPES[dtype]))
    used: Dtype = dtype if works else "float32"
    network.to(device, DTYPES[used])
    return used


def _works(network: Any, device: str, dtype: torch.dtype) -> bool:
    trial = copy.deepcopy(network).to(device, dtype)  # a cast back would not bring all digits back
    sample = torch.full((1, network.input_channels, *SAMPLE), 0.5, device=device, dtype=dtype)
    try:
        with torch.inference_mode():
            trial(sample)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False
    return True


def _raised(network: Any, dtype: Dtype) -> Log:
    return Log(
        level="INFO",
        code="precision.raised",
        message=f"a network of the kind {network.architecture.id} cannot work in {dtype}; it works "
        "in float32 instead, which takes longer",
    )


Through = Callable[[Image], Image]


def _in_grey(image: Image, through: Through) -> Image:
    """The brightness by the network; colours are resampled, which the eye minds least."""
    if image.mode in ("1", "L"):
        return through(image.convert("L"))
    brightness, blue, red = image.convert("RGB").convert("YCbCr").split()
    larger = through(brightness)
    bands = [larger, resample(blue, larger.size), resample(red, larger.size)]
    return _with_alpha_of(image, PIL.Image.merge("YCbCr", bands).convert("RGB"))


def _in_colours(image: Image, through: Through) -> Image:
    return _with_alpha_of(image, through(image.convert("RGB")))


def _with_transparency(image: Image, through: Through) -> Image:
    larger = through(image.convert("RGBA"))
    return larger if image.has_transparency_data else larger.convert("RGB")


# By the channels of the network.
_WAYS: dict[int, Callable[[Image, Through], Image]] = {
    1: _in_grey,
    COLOURS: _in_colours,
    4: _with_transparency,
}


def _with_alpha_of(image: Image, larger: Image) -> Image:
    """`larger` with the transparency of `image`, if that has any."""
    if image.has_transparency_data:
        larger.putalpha(resample(image.convert("RGBA").getchannel("A"), larger.size))
    return larger


def _tensor(image: Image) -> torch.Tensor:
    """Channels, height, width; 0..1."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    stacked = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(stacked).permute(2, 0, 1).contiguous()


def _image(tensor: torch.Tensor) -> Image:
    pixels = tensor.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return PIL.Image.fromarray(pixels.squeeze(2).contiguous().numpy())
