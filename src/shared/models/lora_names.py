"""The names of a LoRA's tensors: which network of a pipeline, which layer of it, and which half.

A LoRA adds `up @ down` to the weights of a layer. Trainers write three kinds of names:

    lora_unet_down_blocks_0_…_to_q.lora_down.weight    kohya's: network and layer in one word
    unet.down_blocks.0.….to_q.lora_A.weight            diffusers' and PEFT's: the layer's own name
    diffusion_model.double_blocks.0.….lora_A.weight    the same, with the names of the original code

A layer is named here with `_` for every `.`, which is the same for all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# `denoiser` is the U-Net or the transformer. The others have their names in the pipeline.
Network = Literal["denoiser", "text_encoder", "text_encoder_2", "text_encoder_3"]
Half = Literal["down", "up", "alpha"]

_NETWORKS: dict[str, Network] = {
    "lora_unet_": "denoiser",
    "lora_transformer_": "denoiser",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "unet.": "denoiser",
    "transformer.": "denoiser",
    "diffusion_model.": "denoiser",
    "model.diffusion_model.": "denoiser",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
}
# Names without a network are those of a denoiser that was saved by itself.
_DENOISER = (
    *("down_blocks.", "mid_block.", "up_blocks."),
    *("transformer_blocks.", "single_transformer_blocks."),
    *("double_blocks.", "single_blocks.", "joint_blocks."),
)
_PEFT = "base_model.model."
_HALVES: dict[str, Half] = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
# Of the first releases of diffusers: the layers belong to a processor of the attention.
_PROCESSOR = ".processor."

# Relatives of a LoRA that change weights in another way, by a piece of a name that only they have.
_RELATIVES = {
    "dora_scale": "a DoRA, which scales the weights besides",
    "lora_magnitude_vector": "a DoRA, which scales the weights besides",
    "hada_": "a LoHa of LyCORIS",
    "lokr_": "a LoKr of LyCORIS",
    "lora_mid": "a LoCon with Tucker's decomposition",
    "oft_": "an OFT, which rotates the weights",
    ".on_input": "an IA3, which scales what a layer gets",
    "w_norm": "with whole norms beside the LoRA",
    ".diff": "with whole weights beside the LoRA",
    "bundle_emb": "with words of its own (textual inversion)",
    "lora_embedding_": "with changes of an embedding",
    "lora_B.bias": "with biases",
}
_SIGNS = (
    *("lora_down.", "lora_up.", "lora_A.", "lora_B.", "lora.down.", "lora.up."),
    *("lora_linear_layer.", "hada_w", "lokr_w", "oft_blocks", "oft_diag", "dora_scale"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRole:
    """What a tensor is. `layer` has `_` for every `.`; `peft`: saved by PEFT alone."""

    network: Network
    layer: str
    half: Half
    peft: bool = False


def looks_like_lora(names: Iterable[str]) -> bool:
    """Whether these are the tensors of a LoRA, or of one of its relatives."""
    return any(sign in name for name in names for sign in _SIGNS)


def relative(name: str) -> str | None:
    """What a file with a tensor of this name is, beyond or instead of a LoRA; None: nothing."""
    return next((what for piece, what in _RELATIVES.items() if piece in name), None)


def role_of(name: str) -> TensorRole | None:
    """What the tensor `name` is; None: its name is not known."""
    peft = name.startswith(_PEFT)
    name = name.removeprefix(_PEFT)
    suffix = next((each for each in _HALVES if name.endswith(each)), None)
    network, layer = _network(name, alone=peft)
    if suffix is None or network is None:
        return None
    layer = layer.removesuffix(suffix)
    if _PROCESSOR in layer:
        layer = layer.replace(_PROCESSOR, ".")
        layer += ".0" if layer.endswith(".to_out") else ""
    return TensorRole(
        network=network, layer=layer.replace(".", "_"), half=_HALVES[suffix], peft=peft
    )


def _network(name: str, *, alone: bool) -> tuple[Network | None, str]:
    """The network, and the rest of the name."""
    for prefix, network in _NETWORKS.items():
        if name.startswith(prefix):
            return network, name.removeprefix(prefix)
    return ("denoiser" if name.startswith(_DENOISER) else None), name
