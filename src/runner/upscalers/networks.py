"""Networks that enlarge or restore pictures: loaded, and judged, through `spandrel`.

spandrel tells some forty architectures apart by their tensors. A network is loaded from its one
safetensors file: never through spandrel's own reader of files, which takes pickles as well. Which
of them are of use here is `check_network`: those that turn a whole picture into a picture.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

from runner.diffusion.finite import check_finite
from shared.errors import ModelUnavailable
from shared.models.networks import MAX_SCALE, Network

# Grey, colours, colours with transparency.
CHANNELS = (1, 3, 4)
TRIAL = (24, 40)  # pixels
# A file is recognised by a few names. What its loader then says where the other tensors do not fit.
_MISFITS = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(RuntimeError, TypeError, ValueError, ZeroDivisionError),
)
# What spandrel calls the use of a network, where it is none for us.
_OTHER_PURPOSES = {
    "FaceSR": "redraws a face that something else has cut out; it has no use for a whole picture",
    "Inpainting": "paints what a mask covers; it enlarges nothing",
}


class NotRecognised(ModelUnavailable):
    """The tensors of a file are those of no network that spandrel knows."""


def load_network(file: Path) -> Any:
    """The network of a safetensors file, on the host. Raises `ModelUnavailable` for a file that is
    none, or one that `check_network` refuses."""
    spandrel = _spandrel()
    weights = load_file(file)
    try:
        network = spandrel.ModelLoader().load_from_state_dict(dict(weights))
    except spandrel.UnsupportedModelError:
        raise NotRecognised(
            f"{file.name}: no network that can be recognised", file=file.name
        ) from None
    except _MISFITS as error:
        _check_fractions(file.name, weights)
        raise ModelUnavailable(
            f"{file.name}: no network that can be loaded: {type(error).__name__}: "
            f"{str(error)[:200]}",
            file=file.name,
        ) from error
    _check_fractions(file.name, weights)
    check_network(file.name, network)
    return network


def _check_fractions(name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Loading would take whole numbers, which another program has packed, for what they are not.

    Networks have some of their own: tables of places, and counters.
    """
    for tensor, numbers in weights.items():
        if tensor.endswith((".weight", ".bias")) and not numbers.is_floating_point():
            raise ModelUnavailable(
                f"{name}: {tensor[:80]} is of {numbers.dtype}, which holds no weights", file=name
            )


def check_network(name: str, network: Any) -> None:
    """Raise `ModelUnavailable` for a network that does not turn a picture into a picture."""
    kind = f"{name}: a network of the kind {network.architecture.id}"
    if network.purpose in _OTHER_PURPOSES:
        raise ModelUnavailable(f"{kind}, which {_OTHER_PURPOSES[network.purpose]}", file=name)
    into, out = network.input_channels, network.output_channels
    if into != out or into not in CHANNELS:
        raise ModelUnavailable(
            f"{kind} of {into} channels to {out}; wanted is one of 1 to 1 (grey), 3 to 3 (colours) "
            "or 4 to 4 (colours and transparency)",
            file=name,
        )
    if not 1 <= network.scale <= MAX_SCALE:
        raise ModelUnavailable(
            f"{kind} that makes sides {network.scale} times as large; at most {MAX_SCALE} times",
            file=name,
        )


def describe_network(file: Path) -> Network:
    """What a safetensors file holds. Raises `ModelUnavailable` as `load_network` does, and for a
    network that makes no picture of a small one."""
    network = load_network(file)
    _check_makes_pictures(file.name, network)
    return Network(architecture=str(network.architecture.id), scale=int(network.scale))


def _check_makes_pictures(name: str, network: Any) -> None:
    """Let it enlarge a small picture once.

    Tensors do not say what a network does with them: some work on colours, whatever channels they
    have, and damaged weights have the shapes of sound ones.
    """
    height, width = TRIAL
    ramp = torch.linspace(0, 1, height * width).reshape(1, 1, height, width)
    picture = ramp.repeat(1, network.input_channels, 1, 1)
    kind = f"{name}: a network of the kind {network.architecture.id}"
    refuse_infinite(network)
    try:
        with torch.inference_mode():
            made = network.eval()(picture)
    except _MISFITS as error:
        raise ModelUnavailable(
            f"{kind} that cannot enlarge a picture: {type(error).__name__}: {str(error)[:200]}",
            file=name,
        ) from error
    wanted = (1, network.output_channels, height * network.scale, width * network.scale)
    if tuple(made.shape) != wanted:
        raise ModelUnavailable(
            f"{kind} that makes {tuple(made.shape)} numbers of a picture, not {wanted}", file=name
        )


def refuse_infinite(network: Any) -> None:
    """Let each use of `network` raise where it makes NaN or infinity.

    The hook is on the module itself: spandrel clamps what it returns, and infinity becomes white.
    """
    network.model.register_forward_hook(_check_made)


def _check_made(_module: Any, _inputs: Any, made: Any) -> None:
    """Some networks return more than the picture, and that is of the same sort."""
    for part in made if isinstance(made, tuple | list) else (made,):
        if isinstance(part, torch.Tensor) and part.is_floating_point():
            check_finite(part)


@contextmanager
def torchvision_stand_in() -> Iterator[None]:
    """Let spandrel be imported where torchvision is not.

    Two of its forty networks, LaMa and RestoreFormer, import three functions of torchvision;
    neither is used here. A torchvision beside another build of torch than its own cannot be
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


def _spandrel() -> ModuleType:
    with torchvision_stand_in():
        try:
            return import_module("spandrel")
        except ModuleNotFoundError as error:
            raise ModelUnavailable(
                f"networks that enlarge need the package {error.name}, which is not installed "
                "here; install dreamforge[gan]"
            ) from None


def _stand_ins() -> dict[str, ModuleType]:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    made = {name: ModuleType(name) for name in names}
    functions = made["torchvision.transforms.functional"]
    for function in ("normalize", "rotate", "InterpolationMode"):
        setattr(functions, function, None)
    return made
