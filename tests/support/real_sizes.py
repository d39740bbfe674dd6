"""The published architectures at their real size, to count and to measure; weights are random.

On torch's meta device they cost nothing, which is enough to count what a preset's figures rest on.
On a GPU `build` writes a whole model folder of one: memory and speed do not ask what weights say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from tests.support.families import describe, sd_scheduler, sdxl_scheduler
from tests.support.tiny_pipeline import clip_tokenizer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from runner.diffusion.pipelines import silence_libraries
from shared.models.descriptor import ModelDescriptor

Parts = dict[str, Any]


def _clip_l() -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        )
    )


def _clip_g() -> Any:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=1280,
            intermediate_size=5120,
            projection_dim=1280,
            num_hidden_layers=32,
            num_attention_heads=20,
            hidden_act="gelu",
        )
    )


def _t5_xxl() -> Any:
    return T5EncoderModel(
        T5Config(
            vocab_size=32128,
            d_model=4096,
            d_ff=10240,
            d_kv=64,
            num_heads=64,
            num_layers=24,
            feed_forward_proj="gated-gelu",
        )
    )


def _vae(channels: int, side: int, *, force_upcast: bool = False) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=2,
        sample_size=side,
        force_upcast=force_upcast,
    )


def _sd() -> Parts:
    return {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        ),
        "text_encoder": _clip_l(),
        "vae": _vae(4, 512),
    }


def _sdxl() -> Parts:
    return {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "text_encoder": _clip_l(),
        "text_encoder_2": _clip_g(),
        "vae": _vae(4, 1024, force_upcast=True),
    }


def _sd3(*, layers: int, heads: int, dual: int, places: int) -> Parts:
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=128,
            in_channels=16,
            out_channels=16,
            num_layers=layers,
            attention_head_dim=64,
            num_attention_heads=heads,
            caption_projection_dim=64 * heads,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            pos_embed_max_size=places,
            dual_attention_layers=tuple(range(dual)),
            qk_norm="rms_norm",
        ),
        "text_encoder": _clip_l(),
        "text_encoder_2": _clip_g(),
        "text_encoder_3": _t5_xxl(),
        "vae": _vae(16, 1024),
    }


def _flux() -> Parts:
    return {
        "transformer": diffusers.FluxTransformer2DModel(guidance_embeds=True),
        "text_encoder": _clip_l(),
        "text_encoder_2": _t5_xxl(),
        "vae": _vae(16, 1024),
    }


def _sd_upscale() -> Parts:
    return {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=128,
            in_channels=7,
            out_channels=4,
            block_out_channels=(256, 512, 512, 1024),
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
            up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
            attention_head_dim=8,
            cross_attention_dim=1024,
            only_cross_attention=(True, True, True, False),
            num_class_embeds=1000,
            use_linear_projection=True,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
            )
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            layers_per_block=2,
            sample_size=256,
            scaling_factor=0.08333,
        ),
    }


def _sd_latent_upscale() -> Parts:
    return {
        "unet": diffusers.UNet2DConditionModel(
            sample_size=128,
            act_fn="gelu",
            attention_head_dim=64,
            norm_num_groups=None,
            block_out_channels=(384, 384, 768, 768),
            layers_per_block=4,
            time_cond_proj_dim=896,
            conv_in_kernel=1,
            conv_out_kernel=1,
            cross_attention_dim=768,
            down_block_types=("KDownBlock2D",) + ("KCrossAttnDownBlock2D",) * 3,
            up_block_types=("KCrossAttnUpBlock2D",) * 3 + ("KUpBlock2D",),
            in_channels=8,
            out_channels=5,
            mid_block_type=None,
            resnet_time_scale_shift="scale_shift",
            time_embedding_type="fourier",
            timestep_post_act="gelu",
        ),
        "text_encoder": _clip_l(),
        "vae": _vae(4, 512),
    }


REAL: dict[str, Callable[[], Parts]] = {
    "sd": _sd,
    "sdxl": _sdxl,
    "sd3-medium": lambda: _sd3(layers=24, heads=24, dual=13, places=384),
    "sd3-large": lambda: _sd3(layers=38, heads=38, dual=0, places=192),
    "flux": _flux,
    "sd_upscale": _sd_upscale,
    "sd_latent_upscale": _sd_latent_upscale,
}


@dataclass(frozen=True, kw_only=True)
class Count:
    """Numbers that a model holds: in all, in its largest part, in its largest layer.

    `in_groups`: what is there while two blocks of its transformer are, or a layer of another part.
    `in_8_bits`: how many of its transformer may be held so, by diffusers; `transformer`: those of
    each of its tensors.
    """

    total: int
    largest_part: int
    largest_layer: int
    in_groups: int
    transformer: Mapping[str, int]
    in_8_bits: int


def count(name: str) -> Count:
    """Count parameters and buffers; nothing is allocated."""
    with torch.device("meta"):
        parts = REAL[name]()
    by_part = [sum(_numbers(part).values()) for part in parts.values()]
    layers = [number for part in parts.values() for number in _numbers(part).values()]
    transformer = parts.get("transformer")
    return Count(
        total=sum(by_part),
        largest_part=max(by_part),
        largest_layer=max(layers),
        in_groups=max(_in_groups(part) for part in parts.values()),
        transformer=_numbers(transformer) if transformer is not None else {},
        in_8_bits=_in_8_bits(transformer) if transformer is not None else 0,
    )


def _in_8_bits(transformer: Any) -> int:
    transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
    )
    held = (each for each in transformer.parameters() if each.dtype == torch.float8_e4m3fn)
    return sum(each.numel() for each in held)


def _in_groups(part: torch.nn.Module) -> int:
    if not hasattr(part, "transformer_blocks"):
        return max(_numbers(part).values())
    lists = [each for each in part.children() if isinstance(each, torch.nn.ModuleList)]
    blocks = [sum(_numbers(block).values()) for blocks in lists for block in blocks]
    return sum(_numbers(part).values()) - sum(blocks) + 2 * max(blocks)


def _numbers(module: torch.nn.Module) -> dict[str, int]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.numel() for name, tensor in tensors}


def build(name: str, folder: Path) -> ModelDescriptor:
    """Write a whole folder of one that has a row below, in half precision, made on the GPU."""
    silence_libraries()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda"):
            parts = REAL[name]()
    finally:
        torch.set_default_dtype(before)
    WHOLE[name](parts).save_pretrained(folder)
    return describe(folder, name)


def _whole_sd(parts: Parts) -> Any:
    return diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=clip_tokenizer(),
        scheduler=sd_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _whole_sdxl(parts: Parts) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        **parts,
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=sdxl_scheduler(),
    )


def _whole_x4(parts: Parts) -> Any:
    return diffusers.StableDiffusionUpscalePipeline(
        **parts,
        tokenizer=clip_tokenizer(),
        low_res_scheduler=diffusers.DDPMScheduler(),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=350,
    )


def _whole_x2(parts: Parts) -> Any:
    return diffusers.StableDiffusionLatentUpscalePipeline(
        **parts,
        tokenizer=clip_tokenizer(),
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="sample"),
    )


WHOLE: dict[str, Callable[[Parts], Any]] = {
    "sd": _whole_sd,
    "sdxl": _whole_sdxl,
    "sd_upscale": _whole_x4,
    "sd_latent_upscale": _whole_x2,
}
