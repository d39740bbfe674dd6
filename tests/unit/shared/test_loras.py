"""What a LoRA is, by the header of its file alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.loras import Tensors, install, write

from shared.errors import ModelUnavailable
from shared.models.descriptor import LoraDescriptor, parse_descriptor
from shared.models.folder import ONE_FILE
from shared.models.lora_header import read_lora
from shared.models.lora_names import looks_like_lora, role_of
from shared.models.verify import read_descriptor, read_model, verify_model


def pair(layer: str, *, into: int = 8, out: int = 8, rank: int = 2) -> Tensors:
    """One pair in kohya's form, or in that of PEFT where the name has dots."""
    down, up = np.ones((rank, into), np.float32), np.ones((out, rank), np.float32)
    if "." in layer:
        return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    return {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}


U_NET = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"


@pytest.mark.parametrize(
    ("tensors", "family", "width"),
    [
        (pair(U_NET, into=768), "sd", 768),
        (pair(U_NET, into=1024), "sd", 1024),
        (pair(U_NET, into=2048), "sdxl", 2048),
        (pair(SDXL), "sdxl", None),
        (pair("unet.down_blocks.0.attentions.0.proj_in"), "sd", None),
        (pair("lora_unet_input_blocks_1_1_proj_in"), "sd", None),
        (pair("unet.mid_block.attentions.0.proj_in") | pair("lora_te2_x"), "sdxl", None),
        (pair("lora_unet_double_blocks_0_img_attn_qkv", into=3072, out=9216), "flux", 3072),
        (pair("lora_unet_single_blocks_3_linear1", into=3072, out=21504), "flux", 3072),
        (pair("transformer.single_transformer_blocks.3.proj_mlp", out=32), "flux", None),
        (pair("transformer.transformer_blocks.0.attn.to_q", into=3072, out=3072), "flux", 3072),
        (pair("transformer.transformer_blocks.0.attn.to_q", into=1536), "sd3", 1536),
        (pair("lora_transformer_transformer_blocks_0_attn_to_q", into=2432), "sd3", 2432),
        (pair("diffusion_model.double_blocks.0.img_attn.qkv", into=3072, out=9216), "flux", 3072),
        (pair("diffusion_model.joint_blocks.0.x_block.attn.qkv", into=1536), "sd3", 1536),
        (
            pair("transformer.transformer_blocks.0.ff.net.2")
            | pair("lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
            "sd3",
            None,
        ),
    ],
)
def test_the_family_is_known_by_the_tensors(
    tensors: Tensors, family: str, width: int | None, tmp_path: Path
) -> None:
    lora = read_lora(write(tmp_path, tensors))
    assert (lora.family, lora.width) == (family, width)


@pytest.mark.parametrize(
    ("name", "network", "layer", "half"),
    [
        ("lora_te_text_model_x.lora_up.weight", "text_encoder", "text_model_x", "up"),
        ("text_encoder_2.a.b.lora_linear_layer.down.weight", "text_encoder_2", "a_b", "down"),
        ("unet.a.attn1.processor.to_q_lora.up.weight", "denoiser", "a_attn1_to_q", "up"),
        ("unet.a.attn1.processor.to_out_lora.up.weight", "denoiser", "a_attn1_to_out_0", "up"),
        ("down_blocks.0.x.lora_A.default.weight", "denoiser", "down_blocks_0_x", "down"),
        ("base_model.model.mid_block.x.lora_B.weight", "denoiser", "mid_block_x", "up"),
        ("lora_unet_x.alpha", "denoiser", "x", "alpha"),
    ],
)
def test_odd_relatives_of_the_names_are_read(
    name: str, network: str, layer: str, half: str
) -> None:
    role = role_of(name)
    assert role is not None
    assert (role.network, role.layer, role.half) == (network, layer, half)


SOUND = pair(U_NET, into=768)
LAYER = {"down": f"{U_NET}.lora_down.weight", "up": f"{U_NET}.lora_up.weight"}


FLUX = pair("transformer.transformer_blocks.0.attn.to_q", into=3072, out=3072)
# Layers that both have by name: (takes, gives) of Flux.1, and of FLUX.2 klein where it differs.
NAMED_ALIKE = {
    "double_blocks_0_img_attn_qkv": ((3072, 9216), None),
    "double_blocks_0_txt_attn_proj": ((3072, 3072), None),
    "double_blocks_0_img_mlp_0": ((3072, 12288), (3072, 18432)),
    "double_blocks_0_txt_mlp_2": ((12288, 3072), (9216, 3072)),
    "double_blocks_0_img_mod_lin": ((3072, 18432), None),
    "single_blocks_0_linear1": ((3072, 21504), (3072, 27648)),
    "single_blocks_0_linear2": ((15360, 3072), (12288, 3072)),
    "single_blocks_0_modulation_lin": ((3072, 9216), None),
    "transformer_blocks_0_attn_to_add_out": ((3072, 3072), None),
    "transformer_blocks_0_ff_net_0_proj": ((3072, 12288), (3072, 18432)),
    "transformer_blocks_0_ff_context_net_2": ((12288, 3072), (9216, 3072)),
    "transformer_blocks_0_norm1_context_linear": ((3072, 18432), None),
    "single_transformer_blocks_0_attn_to_q": ((3072, 3072), None),
    "single_transformer_blocks_0_proj_mlp": ((3072, 12288), (3072, 27648)),
    "single_transformer_blocks_0_proj_out": ((15360, 3072), (12288, 3072)),
    "single_transformer_blocks_0_norm_linear": ((3072, 9216), None),
}


@pytest.mark.parametrize("layer", NAMED_ALIKE)
def test_layers_of_flux_1_are_known_by_what_they_take_and_give(layer: str, tmp_path: Path) -> None:
    name, (flux_1, flux_2) = f"lora_unet_{layer}", NAMED_ALIKE[layer]
    into, out = flux_1
    sound = write(tmp_path, FLUX | pair(name, into=into, out=out, rank=1))
    assert read_lora(sound).family == "flux"
    into, out = flux_2 or (into, out + 8)
    with pytest.raises(ModelUnavailable, match=rf"{layer} takes {into} numbers and gives {out}"):
        read_lora(write(tmp_path, FLUX | pair(name, into=into, out=out, rank=1)))


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (SOUND | {f"{U_NET}.dora_scale": ones(8)}, "a DoRA"),
        ({"unet.mid_block.x.lora_magnitude_vector": ones(8)} | SOUND, "a DoRA"),
        ({f"{U_NET}.hada_w1_a": ones(8, 2)}, "a LoHa of LyCORIS"),
        ({f"{U_NET}.lokr_w1": ones(8, 2)}, "a LoKr of LyCORIS"),
        ({f"{U_NET}.oft_blocks": ones(8, 2)}, "an OFT"),
        (SOUND | {f"{U_NET}.lora_mid.weight": ones(2, 2, 3, 3)}, "Tucker"),
        (SOUND | {f"{U_NET}.diff": ones(8, 8)}, "whole weights"),
        (SOUND | {"lora_unet_x.strength": ones(1)}, "not known here"),
        ({LAYER["down"]: ones(2, 768)}, "has no up half"),
        ({LAYER["up"]: ones(8, 2)}, "has no down half"),
        (SOUND | {LAYER["up"]: ones(8, 3)}, "are no pair"),
        (SOUND | {LAYER["up"]: ones(8, 2, 1, 1)}, "are no pair"),
        (SOUND | {LAYER["down"]: ones(0, 768), LAYER["up"]: ones(8, 0)}, "are no pair"),
        (SOUND | {f"{U_NET}.alpha": ones(2)}, "no single number"),
        (SOUND | pair(U_NET.replace("to_k", "to_v"), into=1024), "several widths"),
        (pair("lora_te_text_model_x"), "text encoders alone"),
        (pair("lora_unet_mid_block_attentions_0_proj_in"), "Stable Diffusion or of SDXL"),
        (pair("transformer.transformer_blocks.0.attn.to_q"), "Flux or of SD 3"),
        (pair("diffusion_model.layers.0.attention.qkv"), "family that is not known"),
        (pair("transformer.transformer_blocks.0.x") | SOUND, "Flux or of SD 3"),
        (pair("base_model.model.down_blocks.0.attentions.0.x"), "saved by PEFT alone"),
        # Of the width of Flux.1: Qwen-Image, HunyuanVideo, FLUX.2.
        (FLUX | pair("transformer_blocks.0.img_mlp.net.2", into=3072), "img_mlp_net_2, which Flux"),
        (pair("transformer.transformer_blocks.59.attn.to_q", into=3072), "59_attn_to_q, which Fl"),
        # FLUX.2 klein with the names of its original code, which are those of Flux.1.
        (pair("lora_unet_single_blocks_0_linear1", into=3072, out=27648), "3072 numbers and gives"),
        (FLUX | pair("lora_unet_double_blocks_0_img_mlp_fc1"), "img_mlp_fc1, which Flux.1 does"),
        (pair("transformer.single_transformer_blocks.38.proj_mlp"), "38_proj_mlp, which Flux.1"),
        (pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"), "to_qkv_mlp_proj"),
        (pair(f"lora_unet_single_blocks_{'9' * 300}_linear1"), "which Flux.1 does not have"),
        ({LAYER["down"]: ones(2, 8), "unet." + U_NET[10:]: ones(1)}, "not known here"),
    ],
)
def test_what_is_no_sound_lora_is_refused_with_its_name(
    tensors: Tensors, why: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=why):
        read_lora(write(tmp_path, tensors))


SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
OTHER_SIZES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "C64": 8, "F8_E8M0": 1}


def of_dtypes(folder: Path, weights: str, alpha: str = "F32") -> Path:
    """A LoRA whose numbers are nothing: NumPy knows half of these dtypes only."""
    header, end = {}, 0
    shapes = [(LAYER["down"], [2, 768], weights), (LAYER["up"], [8, 2], weights)]
    for name, shape, dtype in (*shapes, (f"{U_NET}.alpha", [], alpha)):
        start, end = end, end + math.prod(shape) * (SIZES | OTHER_SIZES)[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    (folder / ONE_FILE).write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    return folder


@pytest.mark.parametrize("dtype", SIZES)
def test_weights_are_fractions_of_any_size(dtype: str, tmp_path: Path) -> None:
    assert read_lora(of_dtypes(tmp_path, dtype, dtype)).family == "sd"


@pytest.mark.parametrize("dtype", OTHER_SIZES)
def test_weights_that_another_program_has_packed_are_refused(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=f"lora_(down|up).* is of {dtype}, which holds no"):
        read_lora(of_dtypes(tmp_path, dtype))


def test_alpha_may_be_a_whole_number(tmp_path: Path) -> None:
    assert read_lora(of_dtypes(tmp_path, "BF16", "I64")).pairs[0].rank == 2
    with pytest.raises(ModelUnavailable, match=r"alpha is of C64, which holds no weights"):
        read_lora(of_dtypes(tmp_path, "BF16", "C64"))


def test_two_spellings_of_one_layer_are_refused(tmp_path: Path) -> None:
    twice = SOUND | pair("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", into=768)
    with pytest.raises(ModelUnavailable, match="are for one layer"):
        read_lora(write(tmp_path, twice))


def test_the_settings_of_peft_are_read_from_the_header(tmp_path: Path) -> None:
    def read(**settings: Any) -> Any:
        text = json.dumps({f"unet.{name}": value for name, value in settings.items()})
        return read_lora(write(tmp_path, SOUND, {"lora_adapter_metadata": text})).pairs[0]

    plain = read(r=2, lora_alpha=8)
    assert (plain.alpha, plain.by_root) == (8.0, False)
    assert read(r=2, lora_alpha=8, use_rslora=True).by_root
    huge = {"lora_alpha": 10**400}
    for refused in ({"use_dora": True}, {"alpha_pattern": {"x": 1}}, {"lora_alpha": "much"}, huge):
        with pytest.raises(ModelUnavailable, match=next(iter(refused))):
            read(**refused)
    with pytest.raises(ModelUnavailable, match="no JSON object"):
        read_lora(write(tmp_path, SOUND, {"lora_adapter_metadata": "["}))


def test_a_described_lora_is_read_back_and_verified_like_a_model(tmp_path: Path) -> None:
    descriptor = install(tmp_path, "style", SOUND)
    folder = tmp_path / "lora" / "style@1"
    assert read_descriptor(folder) == descriptor
    assert (descriptor.family, descriptor.width, descriptor.ranks.max) == ("sd", 768, 2)
    assert descriptor.changed_numbers == 8 * 768
    verify_model(folder, descriptor)
    with pytest.raises(ModelUnavailable, match="a LoRA, which is no model"):
        read_model(folder)
    # Trainers rewrite headers: the numbers alone have the hash that other tools show.
    install(tmp_path, "same", SOUND)
    write(tmp_path / "lora" / "same@1", SOUND, {"a": "note"})
    other = install(tmp_path, "other", {**SOUND, LAYER["up"]: 2 * SOUND[LAYER["up"]]})
    assert other.data_sha256 != descriptor.data_sha256
    with (folder / ONE_FILE).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(ModelUnavailable, match="its content has changed"):
        verify_model(folder, descriptor)


def test_a_descriptor_that_says_another_family_than_the_tensors_is_refused(tmp_path: Path) -> None:
    descriptor = install(tmp_path, "style", SOUND)
    lying = parse_descriptor(descriptor.model_dump() | {"family": "sdxl"})
    assert isinstance(lying, LoraDescriptor)
    with pytest.raises(ModelUnavailable, match="the tensors are those of sd"):
        verify_model(tmp_path / "lora" / "style@1", lying)


def test_only_loras_and_their_relatives_look_like_one() -> None:
    assert looks_like_lora(SOUND)
    assert looks_like_lora([f"{U_NET}.hada_w1_a"])
    assert not looks_like_lora(["model.diffusion_model.input_blocks.0.0.weight"])
