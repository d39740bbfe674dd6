"""Tiny pipelines of the newer families that only `auto` loads, with random weights.

As `tests.support.families`; their text encoders are language models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from tests.support.families import t5_tokenizer, vae
from tests.support.language_parts import (
    SIZES,
    flow,
    flux2_vae,
    gemma2,
    gemma_tokenizer,
    qwen3,
    qwen3_vl_config,
    qwen25_vl,
    qwen_tokenizer,
    qwen_vae,
    t5_gemma,
)


def sana() -> dict[str, Any]:
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        scaling_factor=0.4,
    )
    return {
        "tokenizer": gemma_tokenizer(),
        "text_encoder": gemma2(),
        "vae": vae,
        "transformer": diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=2,
        ),
        "scheduler": diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    }


def _sana() -> Any:
    return diffusers.SanaPipeline(**sana())


def qwen_image() -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": qwen_vae(),
        "text_encoder": qwen25_vl(),
        "tokenizer": qwen_tokenizer(),
        "transformer": diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def _qwen_image() -> Any:
    return diffusers.QwenImagePipeline(**qwen_image())


def z_image(**config: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vae(shift_factor=0.1, scaling_factor=0.36),
        "text_encoder": qwen3(),
        "tokenizer": qwen_tokenizer(),
        "transformer": diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
            **config,
        ),
    }


def _z_image() -> Any:
    return diffusers.ZImagePipeline(**z_image())


def _z_image_omni() -> Any:
    parts = z_image(siglip_feat_dim=16)
    vision = transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_patches=16,
            patch_size=4,
        )
    )
    return diffusers.ZImageOmniPipeline(
        **parts,
        siglip=vision,
        siglip_processor=transformers.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16),
    )


def flux2_transformer(text: int, **config: Any) -> Any:
    return diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        **config,
    )


def _flux2() -> Any:
    tokenizer = qwen_tokenizer()
    text = {
        **SIZES,
        "num_hidden_layers": 30,
        "hidden_size": 16,
        "intermediate_size": 16,
        "vocab_size": len(tokenizer),
        "model_type": "mistral",
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 32,
        "patch_size": 4,
        "head_dim": 16,
        "model_type": "pixtral",
    }
    encoder = transformers.Mistral3ForConditionalGeneration(
        transformers.Mistral3Config(
            text_config=text, vision_config=vision, image_token_index=5, spatial_merge_size=1
        )
    )
    return diffusers.Flux2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=flux2_transformer(48),
    )


def _flux2_klein() -> Any:
    # It reads the layers 9, 18 and 27.
    return diffusers.Flux2KleinPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3(
            "Qwen3ForCausalLM", num_hidden_layers=27, hidden_size=16, intermediate_size=16
        ),
        tokenizer=qwen_tokenizer(),
        transformer=flux2_transformer(48, guidance_embeds=False),
        is_distilled=False,
    )


def _lumina() -> Any:
    vocab = len(gemma_tokenizer())
    gemma = transformers.GemmaModel(transformers.GemmaConfig(**(SIZES | {"vocab_size": vocab})))
    return diffusers.LuminaPipeline(
        transformer=diffusers.LuminaNextDiT2DModel(
            sample_size=8,
            hidden_size=16,
            num_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            ffn_dim_multiplier=1,
            learn_sigma=True,
            cross_attention_dim=32,
        ),
        scheduler=flow(),
        vae=vae(),
        text_encoder=gemma,
        tokenizer=gemma_tokenizer(),
    )


def _lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=24,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(8, 8, 8),
            axes_lens=(300, 64, 64),
            cap_feat_dim=32,
        ),
        scheduler=flow(),
        vae=vae(shift_factor=0.1),
        text_encoder=gemma2(),
        tokenizer=gemma_tokenizer(),
    )


def _krea2() -> Any:
    text = transformers.Qwen3VLModel(qwen3_vl_config(num_hidden_layers=3))
    return diffusers.Krea2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=text,
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.Krea2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=32,
            timestep_embed_dim=32,
            text_hidden_dim=32,
            num_text_layers=2,
            text_num_attention_heads=2,
            text_num_key_value_heads=2,
            text_intermediate_size=32,
            num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1,
            axes_dims_rope=(4, 6, 6),
        ),
        text_encoder_select_layers=(1, 2),
    )


def _ideogram4() -> Any:
    def transformer() -> Any:
        return diffusers.Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=32 * 13,
            mrope_section=(4, 2, 2),
        )

    text = transformers.Qwen3VLModel(
        qwen3_vl_config(num_hidden_layers=36, hidden_size=32, intermediate_size=16)
    )
    return diffusers.Ideogram4Pipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=text,
        tokenizer=qwen_tokenizer(),
        transformer=transformer(),
        unconditional_transformer=transformer(),
    )


def _ovis() -> Any:
    return diffusers.OvisImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1),
        text_encoder=qwen3(),
        tokenizer=qwen_tokenizer(),
        transformer=diffusers.OvisImageTransformer2DModel(
            in_channels=16,
            out_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def _aura_flow() -> Any:
    text = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=len(t5_tokenizer()), d_model=32, d_ff=32, d_kv=8, num_heads=2, num_layers=1
        )
    )
    return diffusers.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=text,
        vae=vae(),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pos_embed_max_size=256,
        ),
        scheduler=flow(),
    )


def _cogview4() -> Any:
    tokenizer = gemma_tokenizer()  # it begins every text with a token, as theirs does
    text = transformers.GlmModel(
        transformers.GlmConfig(**(SIZES | {"vocab_size": len(tokenizer), "pad_token_id": 0}))
    )
    return diffusers.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=text,
        vae=vae(),
        transformer=diffusers.CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=32,
            time_embed_dim=16,
            condition_dim=4,
            sample_size=8,
            rope_axes_dim=(16, 16),
        ),
        scheduler=flow(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    )


def _prx() -> Any:
    tokenizer = gemma_tokenizer()
    tokenizer.model_max_length = 64
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=32,
        hidden_size=32,
        mlp_ratio=1.0,
        num_heads=2,
        depth=1,
        axes_dim=[8, 8],
    )
    return diffusers.PRXPipeline(
        transformer=transformer,
        scheduler=flow(),
        text_encoder=t5_gemma(),
        tokenizer=tokenizer,
        vae=vae(shift_factor=0.1),
        default_sample_size=64,
    )


NEWER: dict[str, Callable[[], Any]] = {
    "sana": _sana,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "z_image_omni": _z_image_omni,
    "flux2": _flux2,
    "flux2_klein": _flux2_klein,
    "lumina": _lumina,
    "lumina2": _lumina2,
    "krea2": _krea2,
    "ideogram4": _ideogram4,
    "ovis": _ovis,
    "aura_flow": _aura_flow,
    "cogview4": _cogview4,
    "prx": _prx,
}
