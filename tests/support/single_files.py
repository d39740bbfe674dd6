"""From a folder in diffusers' layout to the one file that people trade, in its original keys.

The inverse of what diffusers does when it loads such a file: the names of CompVis (SD 1.x, SDXL),
OpenCLIP (SD 2.x, SDXL's second encoder), Stability (SD 3) and Black Forest Labs (Flux), with fused
attention projections where those have them. diffusers splits those of Flux at a width of 3072 that
is written into the converter, so a Flux that it can read has half a billion parameters.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    ".fc1.": ".c_fc.",
    ".fc2.": ".c_proj.",
    ".self_attn.out_proj": ".attn.out_proj",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}


def convert(family: str, folder: Path, dest: Path) -> None:
    """Write `dest`: one `model.safetensors` at the top, and `config/` without any weights."""
    write(CONVERTERS[family](folder), folder, dest)


def write(weights: Weights, folder: Path, dest: Path, *, beside: tuple[str, ...] = ()) -> None:
    """As `convert`; the parts `beside` have their weights below `config/`."""
    config = dest / "config"
    shutil.copytree(folder, config, ignore=shutil.ignore_patterns("*.safetensors"))
    (config / "dreamforge.json").unlink(missing_ok=True)
    for part in beside:
        shutil.copytree(folder / part, config / part, dirs_exist_ok=True)
    save_file({name: w.contiguous() for name, w in weights.items()}, dest / "model.safetensors")


def read(folder: Path, part: str) -> Weights:
    (file,) = (folder / part).glob("*.safetensors")
    return dict(load_file(file))


def config(folder: Path, part: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / part / "config.json").read_text())
    return settings


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def renamed(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = name.replace(ours, theirs)
    return name


def _sd(folder: Path) -> Weights:
    return _unet_and_vae(folder) | prefixed(
        "cond_stage_model.transformer.", _clip(read(folder, "text_encoder"))
    )


def _sd2(folder: Path) -> Weights:
    return _unet_and_vae(folder) | prefixed(
        "cond_stage_model.model.", _open_clip(read(folder, "text_encoder"))
    )


def _sdxl(folder: Path) -> Weights:
    return (
        _unet_and_vae(folder)
        | prefixed("conditioner.embedders.0.transformer.", _clip(read(folder, "text_encoder")))
        | prefixed("conditioner.embedders.1.model.", _open_clip(read(folder, "text_encoder_2")))
    )


def _sd3(folder: Path) -> Weights:
    clip_l = _clip(read(folder, "text_encoder"))
    clip_l.pop("text_projection.weight")
    return (
        prefixed("model.diffusion_model.", _mmdit(folder))
        | prefixed("first_stage_model.", _vae(folder))
        | prefixed("text_encoders.clip_l.transformer.", clip_l)
        | prefixed("text_encoders.clip_g.transformer.", _clip(read(folder, "text_encoder_2")))
        | prefixed("text_encoders.t5xxl.transformer.", read(folder, "text_encoder_3"))
    )


def _unet_and_vae(folder: Path) -> Weights:
    return prefixed("model.diffusion_model.", _unet(folder)) | prefixed(
        "first_stage_model.", _vae(folder)
    )


def _clip(weights: Weights) -> Weights:
    """As transformers wrote it when those files were made: everything below `text_model`."""
    return {
        name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}": value
        for name, value in weights.items()
    }


def _open_clip(weights: Weights) -> Weights:
    converted: Weights = {}
    fused: dict[str, Weights] = {}
    for name, value in weights.items():
        name = name.removeprefix("text_model.")
        if match := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            layer, part, what = match.groups()
            fused.setdefault(f"{layer}.self_attn.in_proj_{what}", {})[part] = value
        elif name == "text_projection.weight":
            converted["text_projection"] = value.T
        else:
            converted[renamed(name, OPEN_CLIP)] = value
    for name, parts in fused.items():
        theirs = renamed(name, OPEN_CLIP).replace(".self_attn.", ".attn.")
        converted[theirs] = torch.cat([parts[part] for part in "qkv"])
    return converted


def _unet(folder: Path) -> Weights:
    weights = read(folder, "unet")
    layers = int(config(folder, "unet")["layers_per_block"])
    return {
        _unet_name(name, layers, _has_attention(name, weights)): value
        for name, value in weights.items()
    }


def _has_attention(name: str, weights: Weights) -> bool:
    block = ".".join(name.split(".")[:2])
    return any(other.startswith(f"{block}.attentions.") for other in weights)


def _unet_name(name: str, layers: int, attention: bool) -> str:
    """The blocks of a U-Net are numbered through: `layers` and a sampler down, one more up."""
    if not name.startswith(("down_blocks", "mid_block", "up_blocks")):
        stem, _, what = name.rpartition(".")
        return f"{UNET_ENDS[stem]}.{what}"
    side, rest = name.split(".", 1)
    if side == "mid_block":
        part, number, tail = rest.split(".", 2)
        place = f"middle_block.{2 * int(number) if part == 'resnets' else 1}"
        return f"{place}.{_inside(part, tail)}"
    block, part, number, tail = rest.split(".", 3)
    first = int(block) * (layers + 1)
    match side, part:
        case "down_blocks", "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{tail.removeprefix('conv.')}"
        case "up_blocks", "upsamplers":
            # Behind the resnet and, where the block has one, the attention.
            return f"output_blocks.{first + layers}.{2 if attention else 1}.{tail}"
        case _:
            down = side == "down_blocks"
            blocks, start = ("input_blocks", first + 1) if down else ("output_blocks", first)
            slot = 0 if part == "resnets" else 1
            return f"{blocks}.{start + int(number)}.{slot}.{_inside(part, tail)}"


def _inside(part: str, tail: str) -> str:
    return renamed(tail, RESNET) if part == "resnets" else tail


def _vae(folder: Path) -> Weights:
    blocks = len(config(folder, "vae")["block_out_channels"])
    converted: Weights = {}
    for name, value in read(folder, "vae").items():
        # There the attention's projections are 1x1 convolutions.
        square = "attentions" in name and "to_" in name and name.endswith("weight")
        converted[_vae_name(name, blocks)] = value[:, :, None, None] if square else value
    return converted


def _vae_name(name: str, blocks: int) -> str:
    if match := re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.*)", name):
        return f"{match[1]}.mid.attn_1.{renamed(match[2], VAE_ATTENTION)}"
    if match := re.fullmatch(r"(\w+)\.mid_block\.resnets\.(\d)\.(.*)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{match[3]}"
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    # The decoder's blocks are counted from the picture's side.
    match = re.search(r"up_blocks\.(\d)\.", name)
    if match is None:
        return name
    level = blocks - 1 - int(match[1])
    name = name.replace(f"up_blocks.{match[1]}.resnets", f"up.{level}.block")
    return name.replace(f"up_blocks.{match[1]}.upsamplers.0", f"up.{level}.upsample")


MMDIT_ENDS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
MMDIT_BLOCK = {
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "norm1.linear": "x_block.adaLN_modulation.1",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
}
MMDIT_FUSED = {
    "x_block": ("to_q", "to_k", "to_v"),
    "context_block": ("add_q_proj", "add_k_proj", "add_v_proj"),
}


def _mmdit(folder: Path) -> Weights:
    weights = read(folder, "transformer")
    last = int(config(folder, "transformer")["num_layers"]) - 1
    converted: Weights = {}
    for number in range(last + 1):
        for block, parts in MMDIT_FUSED.items():
            for what in ("weight", "bias"):
                fused = [weights.pop(f"transformer_blocks.{number}.attn.{p}.{what}") for p in parts]
                converted[f"joint_blocks.{number}.{block}.attn.qkv.{what}"] = torch.cat(fused)
    for name, value in weights.items():
        # The last block's context, and the output, have shift before scale.
        if name.startswith((f"transformer_blocks.{last}.norm1_context", "norm_out")):
            value = torch.cat(list(reversed(value.chunk(2))))
        if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.*)", name):
            converted[f"joint_blocks.{match[1]}.{renamed(match[2], MMDIT_BLOCK)}"] = value
        else:
            converted[renamed(name, MMDIT_ENDS)] = value
    return converted


FLUX_ENDS = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
FLUX_DOUBLE = {
    "norm1_context.linear": "txt_mod.lin",
    "norm1.linear": "img_mod.lin",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
# What is one matrix there: of a block of each sort, from which of ours.
FLUX_FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "transformer_blocks": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single_transformer_blocks": {
        "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    },
}
FLUX_BLOCKS = {"transformer_blocks": "double_blocks", "single_transformer_blocks": "single_blocks"}


def flux(folder: Path) -> Weights:
    """Everything; `flux_transformer` alone is how most such files are traded."""
    return (
        flux_transformer(folder)
        | prefixed("vae.", _vae(folder))
        | prefixed("text_encoders.clip_l.transformer.", _clip(read(folder, "text_encoder")))
        | prefixed("text_encoders.t5xxl.transformer.", read(folder, "text_encoder_2"))
    )


def flux_transformer(folder: Path) -> Weights:
    weights = read(folder, "transformer")
    converted: Weights = {}
    for ours, theirs in FLUX_BLOCKS.items():
        for name, parts in FLUX_FUSED[ours].items():
            for what in ("weight", "bias"):
                pieces = [weights.pop(f"{ours}.0.{part}.{what}") for part in parts]
                converted[f"{theirs}.0.{name}.{what}"] = torch.cat(pieces)
    for name, value in weights.items():
        block, _, rest = name.partition(".0.")
        if block == "transformer_blocks":
            converted[f"double_blocks.0.{renamed(rest, FLUX_DOUBLE)}"] = value
        elif block == "single_transformer_blocks":
            converted[f"single_blocks.0.{renamed(rest, FLUX_SINGLE)}"] = value
        else:
            if name.startswith("norm_out"):  # shift before scale
                value = torch.cat(list(reversed(value.chunk(2))))
            converted[renamed(name, FLUX_ENDS)] = value
    return converted


CONVERTERS: dict[str, Callable[[Path], Weights]] = {
    "sd": _sd,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sd3": _sd3,
}
