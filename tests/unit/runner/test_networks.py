"""Networks of many kinds, tiny and with random weights, through the loading path of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support import upscalers
from tests.support.upscalers import NETWORKS
from tests.unit.runner.test_upscalers import PRESET, given, picture

from runner.upscalers.gan import GanUpscaler
from runner.upscalers.networks import NotRecognised, check_network, describe_network, load_network
from runner.upscalers.resample import resample
from shared.errors import ModelUnavailable
from shared.models.descriptor import ModelDescriptor
from shared.models.folder import ONE_FILE
from shared.models.verify import check_installed
from shared.protocol.messages import GanParams, PresetSpec

# An old call in several of the networks; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")

Made = tuple[Path, ModelDescriptor]
# What differs from three channels, tiles, and a scale of two.
SCALES = {"Compact": 4, "SAFMN": 4, "PLKSR": 3, "DnCNN": 1, "SCUNet": 1, "Uformer": 1}
GREY = {"Compact-grey", "DnCNN"}
WHOLE = {"SwinIR", "SCUNet"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The folder of a network, built once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root, built = tmp_path_factory.mktemp("networks"), dict[str, Made]()

    def get(name: str) -> Made:
        if name not in built:
            built[name] = root / name, upscalers.network(root / name, name)
        return built[name]

    return get


def loaded(made: Made, preset: PresetSpec = PRESET, network: Any = None) -> GanUpscaler:
    """With `network` in place of the one in the folder."""
    folder, descriptor = made
    assert descriptor.scale is not None
    params = GanParams(scale=2, native_scale=descriptor.scale)
    spec = upscalers.spec_of(folder, descriptor)
    return GanUpscaler(network or load_network(folder / ONE_FILE), spec, params, preset)


def enlarged(upscaler: GanUpscaler, image: Image.Image) -> tuple[Image.Image, int]:
    """The result, and in how many tiles it was made."""
    steps: list[tuple[int, int]] = []
    larger = upscaler.enlarge(image, given(image), lambda done, total: steps.append((done, total)))
    return larger, len(steps)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_any_kind_is_installed_and_enlarges(
    name: str, model: Callable[[str], Made]
) -> None:
    folder, descriptor = model(name)
    scale = SCALES.get(name, 2)
    assert (descriptor.kind, descriptor.layout) == ("network", "network")
    assert (descriptor.architecture, descriptor.scale) == (NETWORKS[name][0], scale)
    assert descriptor.capabilities == ("upscale",)
    assert check_installed(folder, checkpoint_sha256=descriptor.checkpoint_sha256) == descriptor
    upscaler = loaded(model(name))
    # Not a multiple of any size that a network asks for, and below what some need at least.
    for size in ((40, 24), (17, 33)):
        larger, _ = enlarged(upscaler, picture(*size))
        assert larger.size == (size[0] * scale, size[1] * scale)
        assert larger.mode == "RGB"
        assert np.ptp(np.asarray(larger)) > 0
        assert enlarged(upscaler, picture(*size))[0].size == larger.size


@pytest.mark.parametrize("name", ["Compact", "SPAN", "SwinIR", "SAFMN", "Uformer"])
def test_a_picture_that_needs_no_tiles_is_what_the_library_makes_of_it(
    name: str, model: Callable[[str], Made]
) -> None:
    image = picture(56, 40)
    network = load_network(model(name)[0] / ONE_FILE)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    wanted = network(pixels[None])[0].mul(255).round().permute(1, 2, 0).numpy()
    made = np.asarray(enlarged(loaded(model(name)), image)[0], dtype=np.int16)
    assert np.abs(made - wanted).max() <= 1


@pytest.mark.parametrize("name", ["Compact-grey", "SPAN", "SwinIR", "DnCNN"])
def test_large_pictures_go_in_tiles_and_fewer_where_a_network_should_see_all(
    name: str, model: Callable[[str], Made]
) -> None:
    _, tiles = enlarged(loaded(model(name)), picture(256, 64))
    assert tiles == (1 if name in WHOLE else 2)
    _, tiles = enlarged(loaded(model(name)), picture(264, 64))
    assert tiles == 2


@pytest.mark.parametrize("name", sorted(GREY))
def test_a_network_of_grey_pictures_leaves_colours_to_resampling(
    name: str, model: Callable[[str], Made]
) -> None:
    upscaler = loaded(model(name))
    grey = picture(32, 24, "L")
    larger, _ = enlarged(upscaler, grey)
    assert larger.mode == "L"
    # The same brightness in all three colours stays grey, to a rounding of the conversion.
    coloured, _ = enlarged(upscaler, Image.merge("RGB", [grey] * 3))
    assert np.abs(np.asarray(coloured, int) - np.asarray(larger, int)[..., None]).max() <= 2
    image = picture(32, 24)
    _, blue, red = enlarged(upscaler, image)[0].convert("YCbCr").split()
    _, wanted_blue, wanted_red = resample(image, blue.size).convert("YCbCr").split()
    for made, wanted in ((blue, wanted_blue), (red, wanted_red)):
        # Colours that no screen has are cut off, which moves a few of them.
        assert np.median(np.abs(np.asarray(made, int) - np.asarray(wanted, int))) <= 6


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_transparency_goes_through_a_network_that_knows_it_and_else_beside_it(
    mode: str, model: Callable[[str], Made]
) -> None:
    image = picture(32, 24, mode)
    see_through = mode.endswith("A")
    alpha = image.convert("RGBA").getchannel("A")
    for name in ("Compact-alpha", "SPAN", "Compact-grey"):
        larger, _ = enlarged(loaded(model(name)), image)
        assert larger.has_transparency_data is see_through, name
        if see_through:
            same = larger.getchannel("A").tobytes() == resample(alpha, larger.size).tobytes()
            assert same is (name != "Compact-alpha")


@pytest.mark.parametrize(
    ("name", "last"), [("SwinIR", "upsample.0.bias"), ("Compact-alpha", "body.6.bias")]
)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_network_that_makes_no_colours_fails_the_step(
    name: str, last: str, number: float, model: Callable[[str], Made]
) -> None:
    weights = load_file(model(name)[0] / ONE_FILE)
    weights[last][0] = number
    network = load_network(model(name)[0] / ONE_FILE)
    network.model.load_state_dict(weights)
    with pytest.raises(ValueError, match="no colours"):
        enlarged(loaded(model(name), network=network), picture(40, 24))


def test_a_network_that_returns_more_than_a_picture_is_checked_too(
    model: Callable[[str], Made],
) -> None:
    network = load_network(model("Compact")[0] / ONE_FILE)
    picture_of, seen = network.model.forward, [torch.tensor(7), torch.tensor(0.5)]
    network.model.forward = lambda tile: (picture_of(tile), *seen)
    network._call_fn = lambda module, tile: module(tile)[0]
    upscaler = loaded(model("Compact"), network=network)
    assert enlarged(upscaler, picture(40, 24))[0].size == (160, 96)
    seen.append(torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="no colours"):
        enlarged(upscaler, picture(40, 24))


@pytest.mark.parametrize(
    ("name", "dtype", "used"),
    [
        ("Compact", "float16", "float16"),
        ("Compact", "bfloat16", "bfloat16"),
        ("SAFMN", "float16", "float32"),  # by what the library says
        ("SwinIR", "bfloat16", "float32"),  # where the library says otherwise
    ],
)
def test_a_network_works_in_float32_where_it_cannot_in_half_precision_and_says_so(
    name: str, dtype: Literal["float16", "bfloat16"], used: str, model: Callable[[str], Made]
) -> None:
    upscaler = loaded(model(name), PRESET.model_copy(update={"dtype": dtype}))
    assert upscaler.dtype == used
    assert [remark.code for remark in upscaler.remarks] == ["precision.raised"] * (used != dtype)
    image = picture(40, 24)
    in_half = np.asarray(enlarged(upscaler, image)[0], dtype=int)
    in_full = np.asarray(enlarged(loaded(model(name)), image)[0], dtype=int)
    assert np.abs(in_half - in_full).max() <= (4 if used == dtype else 0)


# Refused ------------------------------------------------------------------------------------------


def known(**changes: Any) -> Any:
    """What spandrel says of a network."""
    facts = {"purpose": "SR", "input_channels": 3, "output_channels": 3, "scale": 2}
    return SimpleNamespace(architecture=SimpleNamespace(id="Odd"), **(facts | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"purpose": "Inpainting", "scale": 1}, "Odd, which paints what a mask covers"),
        ({"purpose": "FaceSR"}, "Odd, which redraws a face that something else has cut out"),
        ({"input_channels": 1}, "of 1 channels to 3; wanted is one of 1 to 1"),
        ({"input_channels": 2, "output_channels": 2}, "of 2 channels to 2; wanted"),
        ({"output_channels": 4}, "of 3 channels to 4; wanted"),
        ({"scale": 16}, "16 times as large; at most 8 times"),
        ({"scale": 0}, "0 times as large"),
    ],
)
def test_a_network_that_makes_no_picture_of_a_picture_is_refused(
    changes: dict[str, Any], why: str
) -> None:
    check_network(ONE_FILE, known())
    with pytest.raises(ModelUnavailable, match=why) as caught:
        check_network(ONE_FILE, known(**changes))
    assert caught.value.message.startswith(f"{ONE_FILE}: a network of the kind Odd")


def test_a_file_of_tensors_that_nobody_knows_is_not_recognised(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(1)}, tmp_path / ONE_FILE)
    with pytest.raises(NotRecognised, match="no network that can be recognised"):
        describe_network(tmp_path / ONE_FILE)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_network_that_does_not_what_its_tensors_say_is_refused(
    channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SPAN takes away the mean of three colours, whatever it was made for."""
    made = {**NETWORKS["SPAN"][2], "num_in_ch": channels, "num_out_ch": channels}
    monkeypatch.setitem(NETWORKS, "odd", ("SPAN", "SPAN", made))
    save_file(upscalers.network_module("odd").state_dict(), tmp_path / ONE_FILE)
    with pytest.raises(ModelUnavailable, match="SPAN that cannot enlarge a picture: RuntimeError"):
        describe_network(tmp_path / ONE_FILE)


@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_a_network_of_damaged_weights_is_refused(
    value: float, model: Callable[[str], Made], tmp_path: Path
) -> None:
    weights = load_file(model("Compact")[0] / ONE_FILE)
    save_file(
        {key: torch.full_like(each, value) for key, each in weights.items()}, tmp_path / ONE_FILE
    )
    with pytest.raises(ModelUnavailable, match=r"numbers that are no colours \(NaN or infinite\)"):
        describe_network(tmp_path / ONE_FILE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["Compact", "SwinIR"])
def test_a_network_whose_weights_another_program_has_packed_is_refused(
    name: str, dtype: torch.dtype, model: Callable[[str], Made], tmp_path: Path
) -> None:
    weights = load_file(model(name)[0] / ONE_FILE)
    packed = {
        key: (20 * each).to(dtype) if each.is_floating_point() else each
        for key, each in weights.items()
    }
    save_file(packed, tmp_path / ONE_FILE)
    with pytest.raises(ModelUnavailable, match=rf"is of {dtype}, which holds no weights"):
        describe_network(tmp_path / ONE_FILE)


@pytest.mark.parametrize("name", ["Compact", "SPAN", "SwinIR", "RealCUGAN"])
def test_a_network_of_which_a_tensor_is_missing_or_odd_is_refused(
    name: str, model: Callable[[str], Made], tmp_path: Path
) -> None:
    weights = load_file(model(name)[0] / ONE_FILE)
    odd = max(weights)
    for change in ({}, {odd: torch.zeros(3, 5)}, {odd: torch.zeros(())}):
        rest = {key: value for key, value in weights.items() if key != odd}
        save_file(rest | change, tmp_path / ONE_FILE)
        with pytest.raises(ModelUnavailable, match=ONE_FILE):
            describe_network(tmp_path / ONE_FILE)
