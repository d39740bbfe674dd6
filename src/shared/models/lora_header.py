"""Read a LoRA by the header of its file: its pairs of tensors, and the models that it was made for.

The name of a file and what it says about itself are not reliable, its tensors are. All of them must
be understood: a tensor that is left out would make another picture than its author saw, without a
word. So relatives of a LoRA (DoRA, LoHa, LoKr, whole weights) are refused by name.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from shared.errors import ModelUnavailable
from shared.models.families import LoraFamily
from shared.models.folder import ONE_FILE
from shared.models.lora_names import Network, TensorRole, relative, role_of
from shared.models.safetensors_header import Header, Shapes, read_header

ACCEPTED = (
    "accepted are LoRAs with the names of kohya's trainers or of diffusers: pairs of tensors "
    f"(lora_down and lora_up, lora_A and lora_B), for {', '.join(get_args(LoraFamily))}"
)
# Where diffusers writes the settings of PEFT, as JSON: `unet.r`, `unet.lora_alpha`, ….
_ADAPTER_METADATA = "lora_adapter_metadata"

# Weights are fractions. Whole numbers and scales are what another program has packed.
_FRACTIONS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
# Some trainers write alpha as it was typed.
_OF_ALPHA = _FRACTIONS | {"I64", "I32", "I16", "I8", "U8"}

# The width of the text that a U-Net attends to, and of the stream of a transformer.
_TEXT_OF_SDXL = 2048
_STREAM_OF_FLUX = 3072
_STREAMS_OF_SD3 = (1536, 2432)
# Layers that have that width as their input.
_READS_TEXT = re.compile(r".*_attn2_to_[kv]")
_READS_STREAM = re.compile(
    r".*(_attn_to_[qkv]|_attn_add_[qkv]_proj|_(img|txt)_attn_qkv|_block_attn2?_qkv"
    r"|single_blocks_\d+_linear1)"
)
# Stable Diffusion attends at every size, SDXL not at the largest; only SDXL does it twice in a row.
_OF_SD = re.compile(r"(down_blocks_0_attentions|up_blocks_3_attentions|input_blocks_[12]_1)_.*")
_OF_SDXL = re.compile(r".*_transformer_blocks_[1-9]\d*_.*")
_U_NET = (
    *("down_blocks_", "mid_block_", "up_blocks_"),
    *("input_blocks_", "middle_block_", "output_blocks_"),
    *("time_embed", "add_embedding_", "label_emb_", "conv_in", "conv_out", "out_2"),
)
_FLUX = ("double_blocks_", "single_blocks_", "single_transformer_blocks_")
# Relatives of Flux.1 have blocks of the same names and width, and other layers or more blocks:
# Qwen-Image, HunyuanVideo, FLUX.2.
_OF_FLUX = re.compile(
    r"transformer_blocks_(?P<double>\d+)_(attn_(to_[qkv]|to_out_0|to_add_out|add_[qkv]_proj)"
    r"|ff(_context)?_net_(0_proj|2)|norm1(_context)?_linear)"
    r"|double_blocks_(?P<double_>\d+)_(img|txt)_(attn_(qkv|proj)|mlp_[02]|mod_lin)"
    r"|single_transformer_blocks_(?P<single>\d+)_(attn_to_[qkv]|proj_mlp|proj_out|norm_linear)"
    r"|single_blocks_(?P<single_>\d+)_(linear[12]|modulation_lin)"
    r"|x_embedder|context_embedder|norm_out_linear|proj_out"
    r"|time_text_embed_(timestep|guidance|text)_embedder_linear_[12]"
)
_BLOCKS_OF_FLUX = {"double": 19, "double_": 19, "single": 38, "single_": 38}
# FLUX.2 has blocks with all of these names, and of the width of Flux.1 (klein), and other layers
# after attention: what a layer takes and gives, in widths of the stream.
_SHAPES_OF_FLUX = (
    (re.compile(r".*(_attn_(to_[qkv]|to_out_0|to_add_out|add_[qkv]_proj|proj))"), (1, 1)),
    (re.compile(r".*_attn_qkv"), (1, 3)),
    (re.compile(r".*(_mlp_0|_net_0_proj|_proj_mlp)"), (1, 4)),
    (re.compile(r".*(_mlp_2|_net_2)"), (4, 1)),
    (re.compile(r"single_blocks_\d+_linear1"), (1, 7)),
    (re.compile(r"single_(blocks_\d+_linear2|transformer_blocks_\d+_proj_out)"), (5, 1)),
    (re.compile(r"double_.*_mod_lin|transformer_.*_norm1(_context)?_linear"), (1, 6)),
    (re.compile(r"single_.*_(modulation_lin|norm_linear)"), (1, 3)),
)
_SD3 = ("joint_blocks_",)
_FLUX_OR_SD3 = (
    *("transformer_blocks_", "time_text_embed_", "context_embedder", "x_embedder"),
    *("pos_embed_", "norm_out_", "proj_out"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraPair:
    """Two tensors that change one layer: `up @ down`, times `alpha` by the rank.

    `alpha` is None where the tensor `alpha_tensor` has it, or, without one, the rank counts.
    """

    network: Network
    layer: str
    down: str
    up: str
    alpha_tensor: str | None
    alpha: float | None
    by_root: bool  # alpha is divided by the root of the rank (rsLoRA)
    rank: int
    outputs: int
    inputs: tuple[int, ...]  # of a convolution with the sides of its kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraHeader:
    """What a LoRA is. `width` tells models of one family apart; None: it changes no such layer."""

    family: LoraFamily
    width: int | None
    pairs: tuple[LoraPair, ...]
    data_offset: int

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest."""
        ranks = [pair.rank for pair in self.pairs]
        return min(ranks), max(ranks)

    @property
    def changed_numbers(self) -> int:
        """How many numbers the weights have that it changes."""
        return sum(pair.outputs * math.prod(pair.inputs) for pair in self.pairs)


def read_lora(folder: Path, name: str = ONE_FILE) -> LoraHeader:
    """The LoRA in a file of `folder`. `ModelUnavailable` says what is wrong, or what it is."""
    header = read_header(folder, name)
    roles = _roles(name, header.shapes)
    _check_dtypes(name, header, roles)
    pairs = _pairs(name, header, roles)
    widths = _widths(pairs)
    if len(widths) > 1:
        raise _refused(name, f"its layers are for models of several widths: {sorted(widths)}")
    width = next(iter(widths), None)
    family = _family(name, pairs, width)
    return LoraHeader(family=family, width=width, pairs=pairs, data_offset=header.data_offset)


def _roles(name: str, shapes: Shapes) -> dict[str, TensorRole]:
    for tensor in shapes:
        if (what := relative(tensor)) is not None:
            raise _refused(name, f"{what} ({tensor[:80]}); {ACCEPTED}")
    roles = {tensor: role_of(tensor) for tensor in shapes}
    for tensor, role in roles.items():
        if role is None:
            raise _refused(name, f"a tensor that is not known here ({tensor[:80]}); {ACCEPTED}")
    return {tensor: role for tensor, role in roles.items() if role is not None}


def _check_dtypes(name: str, header: Header, roles: Mapping[str, TensorRole]) -> None:
    for tensor, role in roles.items():
        dtype = header.dtypes[tensor]
        if dtype not in (_OF_ALPHA if role.half == "alpha" else _FRACTIONS):
            raise _refused(name, f"{tensor[:80]} is of {dtype}, which holds no weights")


def _pairs(name: str, header: Header, roles: Mapping[str, TensorRole]) -> tuple[LoraPair, ...]:
    layers: dict[tuple[Network, str], dict[str, str]] = {}
    for tensor, role in roles.items():
        halves = layers.setdefault((role.network, role.layer), {})
        if role.half in halves:
            raise _refused(name, f"{tensor[:80]} and {halves[role.half][:80]} are for one layer")
        halves[role.half] = tensor
    settings = _settings(name, header.metadata)
    if any(role.peft for role in roles.values()) and not settings:
        raise _refused(
            name,
            "saved by PEFT alone, which leaves its strength (lora_alpha) to another file. Load it "
            "with diffusers and save it with save_lora_weights",
        )
    return tuple(
        _pair(name, header.shapes, network, layer, halves, settings)
        for (network, layer), halves in sorted(layers.items())
    )


def _pair(
    name: str,
    shapes: Shapes,
    network: Network,
    layer: str,
    halves: Mapping[str, str],
    settings: Mapping[str, Any],
) -> LoraPair:
    for half in ("down", "up"):
        if half not in halves:
            raise _refused(name, f"{next(iter(halves.values()))[:80]} has no {half} half")
    down, up = shapes[halves["down"]], shapes[halves["up"]]
    fits = len(down) == len(up) and len(down) in (2, 4) and up[1] == down[0]
    if not fits or 0 in (*down, *up) or any(side != 1 for side in up[2:]):
        raise _refused(
            name, f"{halves['down'][:80]} {list(down)} and its up half {list(up)} are no pair"
        )
    alpha = halves.get("alpha")
    if alpha is not None and shapes[alpha] not in ((), (1,)):
        raise _refused(name, f"{alpha[:80]} is no single number")
    return LoraPair(
        network=network,
        layer=layer,
        down=halves["down"],
        up=halves["up"],
        alpha_tensor=alpha,
        alpha=None if alpha is not None else _setting(name, settings, network, "lora_alpha"),
        by_root=bool(_setting(name, settings, network, "use_rslora")),
        rank=down[0],
        outputs=up[0],
        inputs=down[1:],
    )


def _settings(name: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings that diffusers wrote into the header; empty where there are none."""
    text = metadata.get(_ADAPTER_METADATA)
    if text is None:
        return {}
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise _refused(name, f"{_ADAPTER_METADATA} is no JSON object")
    for key, value in settings.items():
        setting = key.rpartition(".")[2]
        if value and setting in ("use_dora", "alpha_pattern", "lora_bias", "use_bdlora"):
            raise _refused(name, f"trained with {setting}; {ACCEPTED}")
    return settings


def _setting(name: str, settings: Mapping[str, Any], network: Network, setting: str) -> Any:
    prefixes = ("unet.", "transformer.") if network == "denoiser" else (f"{network}.",)
    value = next(
        (settings[f"{each}{setting}"] for each in prefixes if f"{each}{setting}" in settings), None
    )
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, int | float) or not _is_finite(value):
        raise _refused(name, f"{setting}: {str(value)[:40]!r} is no number")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _widths(pairs: Iterable[LoraPair]) -> set[int]:
    return {
        pair.inputs[0]
        for pair in pairs
        if pair.network == "denoiser"
        and (_READS_TEXT.fullmatch(pair.layer) or _READS_STREAM.fullmatch(pair.layer))
    }


def _family(name: str, pairs: tuple[LoraPair, ...], width: int | None) -> LoraFamily:
    layers = [pair.layer for pair in pairs if pair.network == "denoiser"]
    if not layers:
        raise _refused(name, "it changes text encoders alone, so its family cannot be known")
    others = [
        each for each in layers if not each.startswith((*_U_NET, *_FLUX, *_SD3, *_FLUX_OR_SD3))
    ]
    if others:
        raise _refused(name, f"of a family that is not known here ({others[0][:80]}); {ACCEPTED}")
    if all(layer.startswith(_U_NET) for layer in layers):
        return _family_of_u_net(name, pairs, width)
    if any(layer.startswith(_FLUX) for layer in layers) or width == _STREAM_OF_FLUX:
        for pair in pairs:
            if pair.network == "denoiser":
                _check_is_of_flux(name, pair)
        return "flux"
    if any(layer.startswith(_SD3) for layer in layers) or width in _STREAMS_OF_SD3:
        return "sd3"
    if any(pair.network == "text_encoder_3" for pair in pairs):
        return "sd3"
    raise _refused(name, f"of Flux or of SD 3, which its layers do not tell (width {width})")


def _check_is_of_flux(name: str, pair: LoraPair) -> None:
    if not _is_named_as_of_flux(pair.layer):
        raise _refused(name, f"{pair.layer[:80]}, which Flux.1 does not have; {ACCEPTED}")
    takes, gives = math.prod(pair.inputs), pair.outputs
    for layers, (widths_in, widths_out) in _SHAPES_OF_FLUX:
        if layers.fullmatch(pair.layer) and takes * widths_out != gives * widths_in:
            raise _refused(
                name,
                f"{pair.layer} takes {takes} numbers and gives {gives}, which Flux.1's does not; "
                f"{ACCEPTED}",
            )


def _is_named_as_of_flux(layer: str) -> bool:
    if (found := _OF_FLUX.fullmatch(layer)) is None:
        return False
    numbers = {name: number for name, number in found.groupdict().items() if number is not None}
    return all(_is_below(number, _BLOCKS_OF_FLUX[name]) for name, number in numbers.items())


def _is_below(digits: str, count: int) -> bool:
    """A stranger's number may have hundreds of digits."""
    return len(digits) <= len(str(count)) and int(digits) < count


def _family_of_u_net(name: str, pairs: tuple[LoraPair, ...], width: int | None) -> LoraFamily:
    if width == _TEXT_OF_SDXL or any(pair.network == "text_encoder_2" for pair in pairs):
        return "sdxl"
    layers = [pair.layer for pair in pairs if pair.network == "denoiser"]
    if any(_OF_SDXL.fullmatch(layer) for layer in layers):
        return "sdxl"
    if width is not None or any(_OF_SD.fullmatch(layer) for layer in layers):
        return "sd"
    raise _refused(name, "of Stable Diffusion or of SDXL, which its layers do not tell")


def _refused(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: {why}", file=name)
