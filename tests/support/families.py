"""Tiny pipelines of every family, with random weights, built from their configuration classes.

Each is a whole model folder of the real layout, a few megabytes and a second's work. Pictures are
noise; they are the same noise for the same seed, because the weights are seeded too. The text
encoders of a family have different widths, as in the real ones: by that diffusers tells them apart
in a single file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from tests.support.tiny_pipeline import clip_text_config, clip_tokenizer
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from runner.diffusion.pipelines import silence_libraries
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Defaults, Limits, ModelDescriptor, Range, Source
from shared.models.families import Kind
from shared.models.verify import write_descriptor

SEED = 7
TOKENS = 77
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:()"
DEFAULTS = Defaults(width=64, height=64, steps=2, guidance=3.0)
LIMITS = Limits(width=Range(min=16, max=4096), height=Range(min=16, max=4096))


def build(family: str, folder: Path) -> ModelDescriptor:
    """Write the tiny model of `family` with its descriptor to `folder`."""
    return build_of(FAMILIES[family], family, folder)


def build_of(
    make: Callable[[], Any], family: str, folder: Path, kind: Kind | None = None
) -> ModelDescriptor:
    """The same of the pipeline that `make` gives. `kind` None: that of `family`."""
    silence_libraries()
    save(make, folder)
    return describe(folder, family, kind)


def save(make: Callable[[], Any], folder: Path) -> None:
    """Write the folder of the pipeline that `make` gives, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = make()
        _stir(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)


def _stir(pipeline: Any) -> None:
    """Norms begin as ones and zeros, so exchanging two of them would change no picture."""
    for part in pipeline.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)


def describe(folder: Path, family: str, kind: Kind | None = None) -> ModelDescriptor:
    if kind is None and family in AUTO:
        kind = "auto"
    descriptor = describe_folder(
        folder,
        DescriptorInput(
            name=f"tiny-{family}",
            version="1",
            kind=kind,
            source=Source(uri="tests"),
            defaults=DEFAULTS,
            limits=LIMITS,
        ),
    )
    write_descriptor(folder, descriptor)
    return descriptor


def t5_tokenizer() -> T5Tokenizer:
    """One token per letter, and one for the space before a word."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in LETTERS)], extra_ids=0)


def clip(width: int, *, projection: bool) -> Any:
    config = clip_text_config(width)
    config.projection_dim = width
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=width,
            d_ff=2 * width,
            d_kv=8,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
        )
    )


def vae(*, quant_conv: bool = True, **config: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        sample_size=64,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
        **config,
    )


def _unet(text_width: int, **config: Any) -> diffusers.UNet2DConditionModel:
    usual: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": text_width,
        "attention_head_dim": 4,
    }
    return diffusers.UNet2DConditionModel(**(usual | config))


def sd_scheduler(**config: Any) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **config,
    )


def sdxl_scheduler() -> diffusers.EulerDiscreteScheduler:
    return diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )


def _sd() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(32, projection=False),
        tokenizer=clip_tokenizer(),
        unet=_unet(32),
        scheduler=sd_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd2() -> Any:
    """Stable Diffusion 2.x: linear projections, v-prediction, a wider text encoder."""
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(48, projection=False),
        tokenizer=clip_tokenizer(),
        unet=_unet(48, use_linear_projection=True),
        scheduler=sd_scheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(force_upcast=True),
        text_encoder=clip(32, projection=False),
        text_encoder_2=clip(48, projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=_unet(
            32 + 48,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 48,
            transformer_layers_per_block=(1, 2),
        ),
        scheduler=sdxl_scheduler(),
    )


def _sd3() -> Any:
    clip_l = clip(32, projection=True)
    # A single file has no such weight of CLIP-L: there it is the identity.
    clip_l.text_projection.weight.data = torch.eye(32)
    return diffusers.StableDiffusion3Pipeline(
        vae=vae(quant_conv=False, shift_factor=0.06),
        text_encoder=clip_l,
        text_encoder_2=clip(48, projection=True),
        text_encoder_3=t5(96),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=96,
            pooled_projection_dim=32 + 48,
            pos_embed_max_size=16,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(*, heads: int = 2, rope: tuple[int, int, int] = (4, 4, 8)) -> Any:
    """One block of each sort. The sum of `rope` is the size of a head."""
    return diffusers.FluxPipeline(
        vae=vae(quant_conv=False, shift_factor=0.1),
        text_encoder=clip(32, projection=False),
        text_encoder_2=t5(48),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=sum(rope),
            num_attention_heads=heads,
            joint_attention_dim=48,
            pooled_projection_dim=32,
            axes_dims_rope=rope,
            guidance_embeds=True,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def _kontext() -> Any:
    """A Flux that edits a picture; without one it draws from the text."""
    return diffusers.FluxKontextPipeline(**flux().components)


def _lcm() -> Any:
    """Takes no negative prompt, and brings a scheduler that we have no name for."""
    return diffusers.LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=clip(32, projection=False),
        tokenizer=clip_tokenizer(),
        unet=_unet(32, time_cond_proj_dim=8),
        scheduler=diffusers.LCMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _chroma() -> Any:
    """A relative of Flux with a negative prompt; only its latents say what sides it can draw."""
    return diffusers.ChromaPipeline(
        vae=vae(quant_conv=False, shift_factor=0.1),
        text_encoder=t5(48),
        tokenizer=t5_tokenizer(),
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def _pixart() -> Any:
    """A transformer that reads T5 alone, and would pick a size of its own if it were let."""
    return diffusers.PixArtSigmaPipeline(
        vae=vae(),
        text_encoder=t5(32),
        tokenizer=t5_tokenizer(),
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            cross_attention_dim=32,
            caption_channels=32,
            norm_type="ada_norm_single",
            use_additional_conditions=False,
        ),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd": _sd,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": flux,
    "lcm": _lcm,
    "pixart": _pixart,
    "chroma": _chroma,
    "kontext": _kontext,
}
# What only `AutoPipelineForText2Image` knows how to load.
AUTO = ("lcm", "pixart", "chroma", "kontext")
