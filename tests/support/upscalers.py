"""Tiny upscalers with random weights, as whole model folders: the real loading path."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tests.support.tiny_pipeline import clip_text_config, clip_tokenizer
from transformers import CLIPTextModel

from runner.diffusion.pipelines import silence_libraries
from runner.upscalers.networks import describe_network, torchvision_stand_in
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import ModelDescriptor, Source
from shared.models.folder import ONE_FILE
from shared.models.verify import write_descriptor
from shared.protocol.messages import ModelSpec

SEED = 7


def esrgan(
    folder: Path, *, scale: int = 2, blocks: int = 1, strong: bool = False, name: str = "tiny-gan"
) -> ModelDescriptor:
    """An ESRGAN of few channels, in the layout of its first release.

    Fresh weights are so small that a pixel hardly reaches its neighbours; `strong` ones carry it as
    far as trained ones do.
    """
    with torchvision_stand_in():
        from spandrel.architectures.ESRGAN import ESRGAN
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = ESRGAN(num_filters=8, num_blocks=blocks, scale=scale)
        # Fresh weights make a nearly black picture; this one has all the brightnesses there are.
        with torch.no_grad():
            network.model[-1].weight *= 60
            network.model[-1].bias.fill_(0.5)
            if strong:
                _strengthen(network)
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / ONE_FILE)
    return _described(folder, name)


# Networks of spandrel as small as their classes allow: the architecture, its class, how it is made.
NETWORKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Compact": ("Compact", "Compact", {"num_feat": 8, "num_conv": 2, "upscale": 4}),
    "Compact-grey": (
        *("Compact", "Compact"),
        {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_conv": 2, "upscale": 2},
    ),
    "Compact-alpha": (
        *("Compact", "Compact"),
        {"num_in_ch": 4, "num_out_ch": 4, "num_feat": 8, "num_conv": 2, "upscale": 2},
    ),
    "SPAN": (
        *("SPAN", "SPAN"),
        {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    ),
    "SwinIR": (
        *("SwinIR", "SwinIR"),
        {
            "embed_dim": 12,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 8,
            "mlp_ratio": 2.0,
            "upscale": 2,
            "upsampler": "pixelshuffledirect",
        },
    ),
    "RealCUGAN": ("RealCUGAN", "UpCunet2x", {}),
    "SAFMN": ("SAFMN", "SAFMN", {"dim": 12, "n_blocks": 1, "upscaling_factor": 4}),
    "PLKSR": ("PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2, "upscaling_factor": 3}),
    "RCAN": (
        *("RCAN", "RCAN"),
        {"scale": 2, "n_resgroups": 2, "n_resblocks": 2, "n_feats": 16, "reduction": 4},
    ),
    "DnCNN": ("DnCNN", "DnCNN", {"nc": 8, "nb": 8, "act_mode": "R"}),
    "SCUNet": ("SCUNet", "SCUNet", {"config": [1] * 7, "dim": 64}),
    "Uformer": (
        *("Uformer", "Uformer"),
        {"embed_dim": 8, "depths": [1] * 9, "num_heads": [1] * 9, "img_size": 128},
    ),
}


def network_module(name: str) -> torch.nn.Module:
    """A network with random weights, by its own class."""
    architecture, class_name, arguments = NETWORKS[name]
    with torchvision_stand_in():
        module = importlib.import_module(f"spandrel.architectures.{architecture}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made: torch.nn.Module = getattr(module, class_name)(**arguments).eval()
    return made


def network(
    folder: Path, kind: str, *, name: str = "tiny-network", broken: bool = False
) -> ModelDescriptor:
    """A model of the kind `network`, described as an import describes it.

    `kind` is a key of `NETWORKS`. A `broken` one makes nothing but NaN.
    """
    folder.mkdir(parents=True)
    # A copy each, since a file does not take two names for one memory.
    weights = {
        key: value.clone().contiguous() for key, value in network_module(kind).state_dict().items()
    }
    save_file(weights, folder / ONE_FILE)
    found = describe_network(folder / ONE_FILE)
    if broken:  # later: an import refuses it
        nothing = {key: torch.full_like(value, torch.nan) for key, value in weights.items()}
        save_file(nothing, folder / ONE_FILE)
    descriptor = describe_folder(
        folder,
        DescriptorInput(
            name=name,
            version="1",
            source=Source(uri="tests"),
            network=found,
        ),
    )
    write_descriptor(folder, descriptor)
    return descriptor


def _strengthen(network: torch.nn.Module) -> None:
    """Scale each convolution so that its output varies as its input does, and the last to 0..1."""
    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    for part in convolutions:
        torch.nn.init.kaiming_normal_(part.weight, a=0.2)
    picture = torch.rand(1, 3, 32, 32)
    made = network(picture)
    last = convolutions[-1]
    last.weight *= 0.2 / made.std()
    assert last.bias is not None
    last.bias.fill_(0.5)


def diffusion(folder: Path, kind: str, *, name: str = "tiny-diffusion") -> ModelDescriptor:
    """One of diffusers' two upscaling pipelines, as small as its classes allow."""
    silence_libraries()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = _x4() if kind == "sd_upscale" else _x2()
    pipeline.save_pretrained(folder, safe_serialization=True)
    return _described(folder, name)


def spec_of(folder: Path, model: ModelDescriptor) -> ModelSpec:
    return ModelSpec(
        id="id",
        name=model.name,
        version=model.version,
        kind=model.kind,
        folder=str(folder),
        checkpoint_sha256=model.checkpoint_sha256,
    )


def _described(folder: Path, name: str) -> ModelDescriptor:
    descriptor = describe_folder(
        folder, DescriptorInput(name=name, version="1", source=Source(uri="tests"))
    )
    write_descriptor(folder, descriptor)
    return descriptor


def _x4() -> StableDiffusionUpscalePipeline:
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=32,
        in_channels=7,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        only_cross_attention=(True, False),
        num_class_embeds=100,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        scaling_factor=0.08333,
    )
    return StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip_text_config(32)),
        tokenizer=clip_tokenizer(),
        unet=unet,
        low_res_scheduler=DDPMScheduler(),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        max_noise_level=50,
    )


def _x2() -> StableDiffusionLatentUpscalePipeline:
    unet = UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=[32, 32, 64, 64],
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=32,
        down_block_types=("KDownBlock2D",) + ("KCrossAttnDownBlock2D",) * 3,
        up_block_types=("KCrossAttnUpBlock2D",) * 3 + ("KUpBlock2D",),
        in_channels=8,
        out_channels=5,
        mid_block_type=None,
        only_cross_attention=False,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    return StableDiffusionLatentUpscalePipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip_text_config(32)),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(prediction_type="sample"),
    )
