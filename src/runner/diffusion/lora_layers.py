"""Find the layers of a pipeline that a LoRA changes, by the names that trainers give them.

The names of diffusers are those of the modules themselves. Trainers that work on the original code
write its names; the tables here translate them. Some layers of the original are several in
diffusers, one below the other: their rows are divided.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from shared.models.lora_names import Network

_QKV = ("attn_to_q", "attn_to_k", "attn_to_v")
_ADDED_QKV = ("attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj")
_OF_TRANSFORMERS = {
    "double_blocks": {
        "img_attn_qkv": _QKV,
        "img_attn_proj": ("attn_to_out_0",),
        "img_mlp_0": ("ff_net_0_proj",),
        "img_mlp_2": ("ff_net_2",),
        "img_mod_lin": ("norm1_linear",),
        "txt_attn_qkv": _ADDED_QKV,
        "txt_attn_proj": ("attn_to_add_out",),
        "txt_mlp_0": ("ff_context_net_0_proj",),
        "txt_mlp_2": ("ff_context_net_2",),
        "txt_mod_lin": ("norm1_context_linear",),
    },
    "single_blocks": {
        "linear1": (*_QKV, "proj_mlp"),
        "linear2": ("proj_out",),
        "modulation_lin": ("norm_linear",),
    },
    "joint_blocks": {
        "x_block_attn_qkv": _QKV,
        "x_block_attn_proj": ("attn_to_out_0",),
        "x_block_attn2_qkv": ("attn2_to_q", "attn2_to_k", "attn2_to_v"),
        "x_block_attn2_proj": ("attn2_to_out_0",),
        "x_block_mlp_fc1": ("ff_net_0_proj",),
        "x_block_mlp_fc2": ("ff_net_2",),
        "context_block_attn_qkv": _ADDED_QKV,
        "context_block_attn_proj": ("attn_to_add_out",),
        "context_block_mlp_fc1": ("ff_context_net_0_proj",),
        "context_block_mlp_fc2": ("ff_context_net_2",),
    },
}
_BLOCKS = {
    "double_blocks": "transformer_blocks",
    "single_blocks": "single_transformer_blocks",
    "joint_blocks": "transformer_blocks",
}
_BLOCK = re.compile(r"(double_blocks|single_blocks|joint_blocks)_(\d+)_(.+)")
# Of the original U-Nets: outside of blocks, and inside a residual block.
_OUTSIDE = {
    "input_blocks_0_0": "conv_in",
    "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
}
_RESIDUAL = {
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_IN_MIDDLE = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}
_MIDDLE = re.compile(r"middle_block_(\d)_(.+)")
_IN_OR_OUT = re.compile(r"(input|output)_blocks_(\d+)_(\d)_(.+)")
_TEXT_MODEL = "text_model_"


class Layers:
    """The layers of one pipeline that can be changed: linear ones and convolutions."""

    def __init__(self, pipeline: Any) -> None:
        self._parts: Mapping[str, Any] = pipeline.components
        self._by_network: dict[str, dict[str, torch.nn.Module]] = {}

    def find(self, network: Network, layer: str) -> list[torch.nn.Module]:
        """The layers behind one name, the upper rows first; empty where the pipeline has none."""
        layers = self._layers(self._part(network))
        for names in self._spellings(network, layer):
            if all(name in layers for name in names):
                return [layers[name] for name in names]
        return []

    def _part(self, network: Network) -> str:
        if network == "denoiser":
            return "unet" if self._parts.get("unet") is not None else "transformer"
        # Trainers of Flux count its T5 as the third, as in SD 3.
        if network == "text_encoder_3" and network not in self._parts:
            return "text_encoder_2"
        return network

    def _layers(self, part: str) -> dict[str, torch.nn.Module]:
        if part not in self._by_network:
            module = self._parts.get(part)
            modules = module.named_modules() if isinstance(module, torch.nn.Module) else ()
            self._by_network[part] = {
                name.replace(".", "_"): each
                for name, each in modules
                if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)
            }
        return self._by_network[part]

    def _spellings(self, network: Network, layer: str) -> list[tuple[str, ...]]:
        """What the layer may be called in diffusers and transformers."""
        if network != "denoiser":  # releases of transformers differ in the first word
            return [(layer,), (layer.removeprefix(_TEXT_MODEL),), (_TEXT_MODEL + layer,)]
        if (match := _BLOCK.fullmatch(layer)) is not None:
            blocks, number, rest = match.groups()
            names = _OF_TRANSFORMERS[blocks].get(rest, ())
            return [tuple(f"{_BLOCKS[blocks]}_{number}_{name}" for name in names)] if names else []
        return [(layer,), (_of_u_net(layer, self._layers_per_block),)]

    @cached_property
    def _layers_per_block(self) -> int:
        number = getattr(getattr(self._parts.get("unet"), "config", None), "layers_per_block", 0)
        return number if isinstance(number, int) else 0


def _of_u_net(layer: str, layers_per_block: int) -> str:
    """A name of the original U-Nets in diffusers; another name as it is."""
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    if (match := _MIDDLE.fullmatch(layer)) is not None:
        inner, rest = match.groups()
        return f"mid_block_{_IN_MIDDLE.get(inner, inner)}_{_RESIDUAL.get(rest, rest)}"
    match = _IN_OR_OUT.fullmatch(layer)
    if match is None or not layers_per_block:
        return layer
    side, number, inner, rest = match.groups()
    # Before the first block is `conv_in`. Behind the layers of each block comes one that makes the
    # picture smaller; on the way back each block has one layer more, and may enlarge in it.
    block, place = divmod(int(number) - (side == "input"), layers_per_block + 1)
    name = f"{'down' if side == 'input' else 'up'}_blocks_{block}"
    if rest == "op":
        return f"{name}_downsamplers_0_conv"
    if rest == "conv":
        return f"{name}_upsamplers_0_conv"
    if inner == "0":
        return f"{name}_resnets_{place}_{_RESIDUAL.get(rest, rest)}"
    return f"{name}_attentions_{place}_{rest}"
