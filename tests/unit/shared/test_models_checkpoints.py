"""What a single file is, by its tensors; what it is not is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES
from tests.support.headers import CHECKPOINTS, FLUX, MMDIT, U_NET, of_shapes

from shared.errors import ModelUnavailable
from shared.models.checkpoints import kinds_of_denoiser, recognise
from shared.models.families import BaseModelName, kind_of_base_model
from shared.models.safetensors_header import tensor_shapes

WIDTH = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
WIDE = {WIDTH: (1, 1024)}
NAME = "x.safetensors"


@pytest.mark.parametrize(
    "more", ["model_ema.decay", "alphas_cumprod", "cond_stage_model.logit_scale", "betas", "ztsnr"]
)
def test_what_trainers_leave_in_a_file_does_no_harm(more: str) -> None:
    assert "text_encoder" in recognise("x.safetensors", CHECKPOINTS["sd1"] | {more: (1,)}).parts


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_family_is_known_by_its_tensors(family: BaseModelName) -> None:
    found = recognise(NAME, CHECKPOINTS[family])
    assert (found.base_model, found.kind) == (family, kind_of_base_model(family))


def test_names_without_the_common_prefix_are_the_same_family() -> None:
    bare = {name.removeprefix("model.diffusion_model."): shape for name, shape in MMDIT.items()}
    assert recognise(NAME, bare).base_model == "sd3"
    prefixed = {f"model.diffusion_model.{name}": shape for name, shape in FLUX.items()}
    assert recognise(NAME, prefixed).base_model == "flux_schnell"


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("sd1", {"unet", "vae", "text_encoder"}),
        ("sdxl", {"unet", "vae", "text_encoder", "text_encoder_2"}),
        ("sd3", {"transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"}),
        ("flux_dev", {"transformer"}),
    ],
)
def test_the_parts_are_those_that_the_file_has_weights_for(family: str, parts: set[str]) -> None:
    assert recognise(NAME, CHECKPOINTS[family]).parts == parts


@pytest.mark.parametrize(
    ("mark", "how"), [("v_pred", "v-prediction"), ("edm_mean", "EDM"), (None, None)]
)
def test_a_checkpoint_that_was_trained_otherwise_says_how(
    mark: str | None, how: str | None
) -> None:
    shapes = CHECKPOINTS["sdxl"] | ({mark: ()} if mark else {})
    assert recognise(NAME, shapes).trained == how


@pytest.mark.parametrize(
    ("family", "theirs"),
    [
        ("sdxl", "xl_base"),
        ("sd3", "sd3"),
        ("sd35_large", "sd35_large"),
        ("flux_schnell", "flux"),
        ("flux_dev", "flux"),
    ],
)
def test_the_signs_are_names_that_diffusers_goes_by(family: BaseModelName, theirs: str) -> None:
    """Not ours alone: what the installed diffusers calls this family's key is in such a file."""
    keys = CHECKPOINT_KEY_NAMES[theirs]
    known = [keys] if isinstance(keys, str) else keys
    block = ("conditioner.embedders.1.model.", "joint_blocks.", "double_blocks.0.img_attn.norm.")
    assert any(sign in key for key in known for sign in block)
    for tensor in CHECKPOINTS[family]:
        if tensor.startswith("text_encoders.clip_l"):
            assert tensor == CHECKPOINT_KEY_NAMES["clip_sd3"]
        if tensor.startswith("conditioner.embedders.1"):
            assert tensor == CHECKPOINT_KEY_NAMES["open_clip_sdxl"]


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
def test_a_u_net_alone_is_known_by_the_width_of_its_text(width: int, family: BaseModelName) -> None:
    found = recognise(NAME, U_NET | {WIDTH: (1, width)})
    assert found.base_model == family
    assert found.parts == {"unet"}


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        (U_NET | {"model.diffusion_model.input_blocks.0.0.weight": (2, 9, 1, 1)}, "inpainting"),
        (FLUX | {"img_in.weight": (1, 6)}, "needs a picture to start from"),
        (FLUX | {"img_in.weight": (1,)}, r"without a sound img_in\.weight"),
        (
            CHECKPOINTS["sdxl"] | {"conditioner.embedders.0.model.text_projection": (1,)},
            "the refiner of SDXL",
        ),
        (
            CHECKPOINTS["sd2"] | {"model.diffusion_model.label_emb.0.0.weight": (1,)},
            "an unCLIP model",
        ),
        (FLUX | {"distilled_guidance_layer.in_proj.bias": (1,)}, "from a diffusers folder only"),
        (
            CHECKPOINTS["sdxl"] | {"model.diffusion_model.label_emb.0.0.weight": (1, 2560)},
            "the refiner of SDXL",
        ),
        (FLUX | {"scaled_fp8": (2,)}, "packed for another program"),
        (FLUX | {"double_blocks.0.img_attn.qkv.scale_weight": (1,)}, "packed for another"),
        (FLUX | {"img_in.weight.quant_state.bitsandbytes__nf4": (1,)}, "packed for another"),
        (U_NET | {"cond_stage_model.transformer.embeddings.x": (1,)}, "names that are not known"),
        (U_NET | {"cond_stage_model.roberta.x": (1,), WIDTH: (1, 768)}, "names that are not known"),
        (U_NET | WIDE | {"conditioner.embedders.0.model.x.y": (1,)}, "a part whose names are not"),
        (U_NET | WIDE | {"text_encoder.model.x": (1,)}, "a part whose names are not known"),
        (U_NET | WIDE | {"te1.x.y": (1,)}, "a part whose names are not known"),
        *(
            (CHECKPOINTS["sd1"] | {name: (1, 1)}, "a part whose names are not known")
            for name in (
                *("encoder.conv_in.weight", "decoder.up.0.weight", "quant_conv.weight"),
                *("model.first_stage_model.encoder.x", "module.vae.decoder.x", "taesd.1.weight"),
                *("state_dict.cond_stage_model.x", "transformer.text_model.x", "shared.weight"),
                *("text_projection", "visual.conv1.weight", "control_model.x", "llm.layers.0.x"),
            )
        ),
        (U_NET | WIDE | {"vae.decoder.conv_in.weight": (1,)}, r"its vae \(vae\.\) has names"),
        (U_NET | WIDE | {"first_stage_model.decoder.x": (1,)}, r"its vae \(first_stage_model\.\)"),
        (FLUX | {"clip_l.transformer.x": (1,)}, "a part whose names are not known"),
        (FLUX | {"t5xxl.encoder.x": (1,)}, "a part whose names are not known"),
        ({"lora_unet_mid.lora_down.weight": (1,)}, "a LoRA"),
        ({"unet.down_blocks.0.to_k_lora.down.weight": (1,)}, "a LoRA"),
        ({"down_blocks.0.motion_modules.0.x": (1,)}, "a motion module"),
        ({"control_model.time_embed.0.weight": (1,)}, "a ControlNet"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "take the whole folder"),
        ({"decoder.conv_in.weight": (1,)}, "an autoencoder alone"),
        ({"text_model.final_layer_norm.weight": (1,)}, "a text encoder alone"),
        ({"something": (1,)}, "its first tensor is 'something'"),
        ({}, "its first tensor is 'none'"),
        (U_NET, "no model that is known here"),
    ],
)
def test_what_makes_no_picture_from_text_is_refused_by_name(
    shapes: dict[str, tuple[int, ...]], why: str
) -> None:
    with pytest.raises(ModelUnavailable, match=why) as caught:
        recognise(NAME, shapes)
    assert caught.value.message.startswith(f"{NAME}: ")


def test_the_denoiser_of_a_folder_says_what_the_folder_can_be() -> None:
    assert kinds_of_denoiser(["single_transformer_blocks.0.x", "transformer_blocks.0.x"]) == {
        "flux"
    }
    assert kinds_of_denoiser(["transformer_blocks.0.x", "context_embedder.bias"]) == {"sd3"}
    assert kinds_of_denoiser(["down_blocks.0.x", "up_blocks.0.x", "conv_in.bias"]) == {"sd", "sdxl"}
    assert kinds_of_denoiser(["a", "b"]) == frozenset()


@pytest.mark.parametrize("begin", ["clip", "t5", "te1_", "vae.", "clip_"])
def test_a_long_name_takes_no_longer_than_a_short_one(begin: str) -> None:
    """Names are a stranger's: a search that goes back over one would take hours."""
    sizes = CHECKPOINTS["sd1"] | {begin + "_" * 200_000: (1,)}
    assert recognise("m.safetensors", sizes).kind == "sd"


def test_a_tensor_with_an_endless_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(of_shapes({"x" * 513: (1,)}))
    with pytest.raises(ModelUnavailable, match="name of more than 512 characters"):
        tensor_shapes(tmp_path, "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(of_shapes({"x" * 512: (1,)}))
    assert tensor_shapes(tmp_path, "m.safetensors")
