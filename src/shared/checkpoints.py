"""What one file of weights is of, from the names and shapes of its tensors.

People trade checkpoints as single files in the names of their original code. The name of such a
file says nothing that can be relied on, its tensors do: which family it is of, whether it is one of
the relatives that make no picture from a text alone (inpainting, a LoRA, a ControlNet), and which
parts of a pipeline it has: files of Flux and SD 3 often come without text encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from shared.errors import ModelUnavailable
from shared.model_schema import Kind
from shared.safetensors_header import Shapes

Family = Literal[
    "sd1", "sd2", "sdxl", "sd3", "sd35_medium", "sd35_large", "flux_dev", "flux_schnell"
]

KIND_OF_FAMILY: dict[Family, Kind] = {
    "sd1": "sd",
    "sd2": "sd",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "sd35_medium": "sd3",
    "sd35_large": "sd3",
    "flux_dev": "flux",
    "flux_schnell": "flux",
}

# The width of the text that a U-Net attends to, where the file has no encoder to ask.
_FAMILY_OF_WIDTH: dict[int, Family] = {768: "sd1", 1024: "sd2"}

# In most files the denoiser's names begin with this; files that hold nothing else leave it out.
_DENOISER = "model.diffusion_model."

_VAE = ("first_stage_model.encoder.conv_in.weight", "vae.encoder.conv_in.weight")
_CLIP = "text_model.embeddings.position_embedding.weight"
# A tensor that a file has if it has that part, under the names that diffusers can read.
_PARTS: dict[Kind, Mapping[str, tuple[str, ...]]] = {
    "sd": {
        "vae": _VAE,
        "text_encoder": (
            f"cond_stage_model.transformer.{_CLIP}",
            "cond_stage_model.model.token_embedding.weight",
        ),
    },
    "sdxl": {
        "vae": _VAE,
        "text_encoder": (f"conditioner.embedders.0.transformer.{_CLIP}",),
        "text_encoder_2": ("conditioner.embedders.1.model.positional_embedding",),
    },
    "sd3": {
        "vae": _VAE,
        "text_encoder": (f"text_encoders.clip_l.transformer.{_CLIP}",),
        "text_encoder_2": (f"text_encoders.clip_g.transformer.{_CLIP}",),
        "text_encoder_3": ("text_encoders.t5xxl.transformer.shared.weight",),
    },
    "flux": {
        "vae": _VAE,
        "text_encoder": (f"text_encoders.clip_l.transformer.{_CLIP}",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.shared.weight",),
    },
}
_DENOISER_OF: dict[Kind, str] = {
    "sd": "unet",
    "sdxl": "unet",
    "sd3": "transformer",
    "flux": "transformer",
}

# What people take for a checkpoint, by a piece of a name that only such a file has.
_OTHER_THINGS = {
    "lora_down": "a LoRA, which changes a model and is none",
    "lora_up": "a LoRA, which changes a model and is none",
    "lora_A": "a LoRA, which changes a model and is none",
    "control_model.": "a ControlNet, which steers a model and is none",
    "input_hint_block": "a ControlNet, which steers a model and is none",
    "controlnet_cond_embedding": "a ControlNet, which steers a model and is none",
    "down_blocks.": "one part of a diffusers folder; take the whole folder",
    "single_transformer_blocks.": "one part of a diffusers folder; take the whole folder",
    "decoder.conv_in": "an autoencoder alone",
    "text_model.": "a text encoder alone",
}
# Of newer relatives with the same block names. diffusers loads them from folders, as `auto`.
_NOT_FLUX_1 = ("single_stream_modulation.lin.weight", "distilled_guidance_layer.in_proj.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file that makes pictures from text. `parts`: the components whose weights it has."""

    family: Family
    kind: Kind
    parts: frozenset[str]


def recognise(name: str, shapes: Shapes) -> Checkpoint:
    """What the file `name` with these tensors is; `ModelUnavailable` says what it is instead."""
    denoiser = {tensor.removeprefix(_DENOISER): shape for tensor, shape in shapes.items()}
    family = _family(name, shapes, denoiser)
    if family is None:
        raise _refused(name, _otherwise(shapes))
    kind = KIND_OF_FAMILY[family]
    held = {part for part, signs in _PARTS[kind].items() if any(sign in shapes for sign in signs)}
    return Checkpoint(family=family, kind=kind, parts=frozenset({_DENOISER_OF[kind], *held}))


def kinds_of_denoiser(names: Iterable[str]) -> frozenset[Kind]:
    """What a diffusers folder can be whose U-Net or transformer has these tensors; may be empty,
    which says nothing."""
    stems = {name.split(".", 1)[0] for name in names}
    if "single_transformer_blocks" in stems:
        return frozenset({"flux"})
    if {"transformer_blocks", "context_embedder"} <= stems:
        return frozenset({"sd3"})
    if {"down_blocks", "up_blocks", "conv_in"} <= stems:
        return frozenset({"sd", "sdxl"})
    return frozenset()


def _family(name: str, shapes: Shapes, denoiser: Shapes) -> Family | None:
    if "double_blocks.0.img_attn.norm.key_norm.scale" in denoiser:
        return _flux(name, denoiser)
    if "joint_blocks.0.context_block.adaLN_modulation.1.bias" in denoiser:
        return _sd3(denoiser)
    if "input_blocks.0.0.weight" in denoiser and "out.2.weight" in denoiser:
        return _u_net(name, shapes, denoiser)
    return None


def _flux(name: str, denoiser: Shapes) -> Family:
    if any(sign in denoiser for sign in _NOT_FLUX_1):
        raise _refused(name, "of a family that is loaded from a diffusers folder only")
    _check_input(name, denoiser, "img_in.weight", "final_layer.linear.weight")
    return "flux_dev" if "guidance_in.in_layer.weight" in denoiser else "flux_schnell"


def _sd3(denoiser: Shapes) -> Family:
    if "joint_blocks.37.x_block.mlp.fc1.weight" in denoiser:
        return "sd35_large"
    if "joint_blocks.0.x_block.attn2.qkv.weight" in denoiser:
        return "sd35_medium"
    return "sd3"


def _u_net(name: str, shapes: Shapes, denoiser: Shapes) -> Family | None:
    _check_input(name, denoiser, "input_blocks.0.0.weight", "out.2.weight")
    encoders = {".".join(tensor.split(".")[:2]) for tensor in shapes}
    if "label_emb.0.0.weight" in denoiser:
        if "conditioner.embedders.0.model.text_projection" in shapes:
            raise _refused(name, "the refiner of SDXL, which makes no picture from a text alone")
        if not any(encoder.startswith("cond_stage_model.") for encoder in encoders):
            return "sdxl"
        raise _refused(name, "an unCLIP model, which needs a picture to start from")
    if "cond_stage_model.model" in encoders:
        return "sd2"
    if "cond_stage_model.transformer" in encoders:
        return "sd1"
    return _by_width(denoiser)


def _by_width(denoiser: Shapes) -> Family | None:
    for name, shape in denoiser.items():
        if name.endswith(".attn2.to_k.weight") and len(shape) == 2:
            return _FAMILY_OF_WIDTH.get(shape[1])
    return None


def _check_input(name: str, denoiser: Shapes, first: str, last: str) -> None:
    """A model that reads more than noise (a mask, a picture) has more channels in than out."""
    into, out = denoiser.get(first, ()), denoiser.get(last, ())
    if len(into) < 2 or not out:
        raise _refused(name, f"without a sound {first}")
    if into[1] != out[0]:
        raise _refused(name, "for inpainting, depth or editing: it needs a picture to start from")


def _otherwise(shapes: Shapes) -> str:
    for piece, what in _OTHER_THINGS.items():
        if any(piece in tensor for tensor in shapes):
            return what
    return f"no model that is known here (its first tensor is {min(shapes, default='none')[:80]!r})"


def _refused(name: str, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: {what}", file=name)
