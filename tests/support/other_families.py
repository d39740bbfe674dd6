"""Tiny pipelines of the other families that only `auto` loads, with random weights.

As `tests.support.families`. Those of PAG are relatives with another guidance: the same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from tests.support.families import FAMILIES, clip, t5, t5_tokenizer, vae
from tests.support.language_parts import bert_tokenizer, movq
from tests.support.newer_families import sana
from tests.support.tiny_pipeline import clip_tokenizer


def pixart_transformer() -> Any:
    return diffusers.PixArtTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=32,
        norm_type="ada_norm_single",
        use_additional_conditions=False,
    )


def _pixart_alpha() -> Any:
    return diffusers.PixArtAlphaPipeline(
        vae=vae(),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        transformer=pixart_transformer(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def _pixart_sigma_pag() -> Any:
    return diffusers.PixArtSigmaPAGPipeline(
        vae=vae(),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        transformer=pixart_transformer(),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        pag_applied_layers=["blocks.1"],
    )


def hunyuan() -> dict[str, Any]:
    text = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(bert_tokenizer()),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    return {
        "vae": vae(),
        "text_encoder": text,
        "tokenizer": bert_tokenizer(),
        "text_encoder_2": t5(32),
        "tokenizer_2": t5_tokenizer(),
        "transformer": diffusers.HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=32,
            num_layers=2,
            mlp_ratio=1.0,
            cross_attention_dim=32,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
        ),
        "scheduler": diffusers.DDPMScheduler(prediction_type="v_prediction"),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _hunyuan() -> Any:
    return diffusers.HunyuanDiTPipeline(**hunyuan())


def _hunyuan_pag() -> Any:
    return diffusers.HunyuanDiTPAGPipeline(**hunyuan(), pag_applied_layers=["blocks.1"])


def _deep_floyd() -> Any:
    return diffusers.IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(32),
        unet=diffusers.UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            in_channels=3,
            out_channels=6,
            cross_attention_dim=32,
            encoder_hid_dim=32,
            encoder_hid_dim_type="text_proj",
            attention_head_dim=8,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
        ),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2",
            variance_type="learned_range",
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
            prediction_type="epsilon",
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def _kandinsky3() -> Any:
    return diffusers.Kandinsky3Pipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(32),
        unet=diffusers.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=4,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(32, 64),
            cross_attention_dim=4,
            encoder_hid_dim=32,
        ),
        scheduler=diffusers.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", clip_sample=True, thresholding=False
        ),
        movq=movq(),
    )


def _kandinsky22() -> Any:
    text = clip(16, projection=True)
    vision = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            image_size=32,
            patch_size=16,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    return diffusers.KandinskyV22CombinedPipeline(
        unet=unet,
        scheduler=diffusers.DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, prediction_type="epsilon"
        ),
        movq=movq(),
        prior_prior=diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1
        ),
        prior_image_encoder=vision,
        prior_text_encoder=text,
        prior_tokenizer=clip_tokenizer(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample_range=5.0,
        ),
        prior_image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=32
        ),
    )


def _cogview3() -> Any:
    return diffusers.CogView3PlusPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(32),
        vae=vae(),
        transformer=diffusers.CogView3PlusTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=32,
            time_embed_dim=16,
            condition_dim=4,
            pos_embed_max_size=16,
            sample_size=8,
        ),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            snr_shift_scale=4.0,
        ),
    )


def _sana_pag() -> Any:
    return diffusers.SanaPAGPipeline(**sana(), pag_applied_layers="transformer_blocks.0")


def _sd_pag() -> Any:
    return diffusers.StableDiffusionPAGPipeline(
        **FAMILIES["sd"]().components, requires_safety_checker=False
    )


def _sdxl_pag() -> Any:
    return diffusers.StableDiffusionXLPAGPipeline(**FAMILIES["sdxl"]().components)


def _sd3_pag() -> Any:
    parts = FAMILIES["sd3"]().components
    del parts["image_encoder"], parts["feature_extractor"]
    return diffusers.StableDiffusion3PAGPipeline(**parts)


OTHERS: dict[str, Callable[[], Any]] = {
    "pixart_alpha": _pixart_alpha,
    "pixart_sigma_pag": _pixart_sigma_pag,
    "hunyuan": _hunyuan,
    "hunyuan_pag": _hunyuan_pag,
    "deep_floyd": _deep_floyd,
    "kandinsky3": _kandinsky3,
    "kandinsky22": _kandinsky22,
    "cogview3": _cogview3,
    "sana_pag": _sana_pag,
    "sd_pag": _sd_pag,
    "sdxl_pag": _sdxl_pag,
    "sd3_pag": _sd3_pag,
}
