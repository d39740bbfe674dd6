"""Enlarging with a GAN of the ESRGAN family, through `spandrel`.

The network is loaded from the model's one safetensors file: never through spandrel's own reader of
files, which takes pickles as well. A picture goes through it in tiles. Transparency is not what
these networks were trained on: they get the colours, and the alpha channel is resampled.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from safetensors.torch import load_file

from runner.diffusion.finite import check_finite
from runner.diffusion.pipelines import DTYPES
from runner.upscalers.base import OnStep
from runner.upscalers.resample import resample
from runner.upscalers.tiling import enlarge_in_tiles
from shared.errors import ModelUnavailable
from shared.models.folder import ONE_FILE
from shared.protocol.messages import GanParams, InputSpec, ModelSpec, PresetSpec

ARCHITECTURE = "ESRGAN"
COLOURS = 3


class GanUpscaler:
    """A loaded network on its device; `name` is the model's."""

    def __init__(
        self, network: Any, model: ModelSpec, params: GanParams, preset: PresetSpec
    ) -> None:
        """`network` of `load_network`. Raises `ModelUnavailable` when it is another than the step
        says."""
        _check_shape(network, params.native_scale)
        self.name = f"{model.name}@{model.version}"
        self._scale = params.native_scale
        self._device, self._dtype = preset.device, DTYPES[preset.dtype]
        self._network = network
        self._network.to(self._device, self._dtype).eval()
        # On the module itself: around it spandrel clamps, and infinity cannot be told from white.
        self._network.model.register_forward_hook(lambda _module, _inputs, made: check_finite(made))

    def enlarge(self, image: Image, _source: InputSpec, on_step: OnStep) -> Image:
        """`image` at the network's own scale; `on_step` after each tile, and it may raise."""
        colours = _tensor(image.convert("RGB"))
        with torch.inference_mode():
            larger = enlarge_in_tiles(colours, self._scale, self._piece, on_step)
        result = _image(larger)
        if image.has_transparency_data:
            result.putalpha(resample(image.convert("RGBA").getchannel("A"), result.size))
        return result

    def _piece(self, tile: torch.Tensor) -> torch.Tensor:
        batch = tile.unsqueeze(0).to(self._device, self._dtype)
        result: torch.Tensor = self._network(batch)[0]
        return result


def load_network(folder: Path) -> Any:
    """The network of a model's folder, on the host. Raises `ModelUnavailable` for another kind."""
    with torchvision_stand_in():
        try:
            spandrel = import_module("spandrel")
        except ModuleNotFoundError as error:
            raise ModelUnavailable(
                f"GAN upscalers need the package {error.name}, which this worker does not have; "
                "install dreamforge[gan]"
            ) from None
    try:
        network = spandrel.ModelLoader().load_from_state_dict(load_file(folder / ONE_FILE))
    except spandrel.UnsupportedModelError:
        raise ModelUnavailable(f"{ONE_FILE}: no network that can be recognised") from None
    if network.architecture.id != ARCHITECTURE:
        raise ModelUnavailable(
            f"{ONE_FILE}: a network of the kind {network.architecture.id}, not {ARCHITECTURE}"
        )
    return network


def _check_shape(network: Any, native_scale: int) -> None:
    shape = (network.input_channels, network.output_channels, network.scale)
    if shape != (COLOURS, COLOURS, native_scale):
        raise ModelUnavailable(
            f"{ONE_FILE}: {shape[0]} channels to {shape[1]}, {shape[2]} times as large; "
            f"wanted 3 to 3 and {native_scale} times"
        )


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let spandrel be imported where torchvision is not.

    Two of its forty networks, LaMa and RestoreFormer, import three functions of torchvision;
    neither is loaded here. A torchvision beside another build of torch than its own cannot be
    imported at all, so requiring it would break every host without CUDA for nothing.
    """
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError):  # the latter is what a foreign build says
        stand_ins = _stand_ins()
    else:
        stand_ins = {}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _stand_ins() -> dict[str, ModuleType]:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    made = {name: ModuleType(name) for name in names}
    functions = made["torchvision.transforms.functional"]
    for function in ("normalize", "rotate", "InterpolationMode"):
        setattr(functions, function, None)
    return made


def _tensor(image: Image) -> torch.Tensor:
    """Channels, height, width; 0..1."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _image(tensor: torch.Tensor) -> Image:
    pixels = tensor.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return PIL.Image.fromarray(pixels.contiguous().numpy())
