"""Recognise a checkpoint in one file by the names and shapes of its tensors.

Such files are traded with the tensor names of the original code. The name of the file is not
reliable, its tensors are. They say which base model it was made from, whether it is a relative that
makes no picture from a text alone (inpainting, a LoRA, a ControlNet), and which parts of a pipeline
it has: files of Flux and SD 3 often come without text encoders.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shared.errors import ModelUnavailable
from shared.models.families import FAMILIES, BaseModelName, Kind, SingleFile, kind_of_base_model
from shared.models.safetensors_header import Shapes

# The width of the text that a U-Net attends to, where the file has no encoder to ask.
_BASE_OF_WIDTH: dict[int, BaseModelName] = {768: "sd1", 1024: "sd2"}

_REFINER_WIDTH = 2560  # numbers that SDXL's refiner gets about a picture; its base gets 2816

# In most files the denoiser's names begin with this; files that hold nothing else leave it out.
_DENOISER = "model.diffusion_model."

# Weights that were packed for another program: a loader that does not know would read noise.
_PACKED = ("scaled_fp8", "scale_weight", "comfy_quant", "quant_state", "weight_scale")
# Marks of a checkpoint that was trained otherwise than its family: the makers' scheduler is wrong.
_TRAINED_OTHERWISE = {
    "v_pred": "v-prediction",
    "ztsnr": "v-prediction",
    "edm_mean": "EDM",
    "edm_vpred.sigma_max": "EDM with v-prediction",
}

# Files that are mistaken for a checkpoint, by a piece of a name that only they have.
_LORA = "a LoRA or its like, which changes a model and is none"
_CONTROL = "a ControlNet, which steers a model and is none"
_OTHER_THINGS = {
    "lora_down": _LORA,
    "lora_up": _LORA,
    "lora_A": _LORA,
    "lora.down": _LORA,
    "lokr_": _LORA,
    "hada_": _LORA,
    "control_model.": _CONTROL,
    "input_hint_block": _CONTROL,
    "controlnet_": _CONTROL,
    "motion_modules.": "a motion module, which makes a model move and is none",
    "down_blocks.": "one part of a diffusers folder; take the whole folder",
    "single_transformer_blocks.": "one part of a diffusers folder; take the whole folder",
    "decoder.conv_in": "an autoencoder alone",
    "text_model.": "a text encoder alone",
}
# How the names of text encoders and autoencoders begin, in all layouts that are traded. No two
# repetitions meet in it: names are a stranger's, and one of them must not take minutes.
_PART = re.compile(
    r"(?:(?:cond_stage_model|conditioner|embedders|text_encoders?|text_model|te\d?|vae"
    r"|first_stage_model|autoencoder|ae)[._]|(?:clip|t5)(?:[^\W_]*_|\w*\.))\w*\."
)
# What checkpoints carry from their training, and parts without which a model draws the same.
_OF_NO_USE = ("model_ema.", "loss.", "embedding_manager.", "image_encoder.", "safety_checker.")
# Of newer relatives with the same block names. diffusers loads them from folders, as `auto`.
_NOT_FLUX_1 = ("single_stream_modulation.lin.weight", "distilled_guidance_layer.in_proj.bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A file that makes pictures from text. `parts`: the components whose weights it has.

    `trained` says how, where that differs from its base model: then it needs its own configuration.
    """

    base_model: BaseModelName
    kind: Kind
    parts: frozenset[str]
    trained: str | None = None

    @property
    def possible_parts(self) -> frozenset[str]:
        """The components of its kind that have weights."""
        single_file = _single_file(self.kind)
        return frozenset({single_file.denoiser, *single_file.parts})


class UnknownTensors(ModelUnavailable):
    """A file without a sign of what it is: it may still be a network that enlarges pictures."""


def recognise(name: str, shapes: Shapes) -> Checkpoint:
    """The checkpoint in the file `name`; `ModelUnavailable` says what the file is instead.

    Raises `UnknownTensors` where that is not known here.
    """
    for tensor in shapes:
        if tensor.rpartition(".")[2] in _PACKED or any(f"{mark}." in tensor for mark in _PACKED):
            raise _refused(name, f"packed for another program ({tensor[:80]}); take the plain one")
    denoiser = {tensor.removeprefix(_DENOISER): shape for tensor, shape in shapes.items()}
    base_model = _base_model(name, shapes, denoiser)
    if base_model is None:
        raise _otherwise(name, shapes)
    kind = kind_of_base_model(base_model)
    single_file = _single_file(kind)
    _refuse_unknown_parts(name, shapes, single_file)
    parts = {
        part
        for part, names in single_file.parts.items()
        if any(sign in shapes for sign in names.signs)
    }
    return Checkpoint(
        base_model=base_model,
        kind=kind,
        parts=frozenset({single_file.denoiser, *parts}),
        trained=next((how for mark, how in _TRAINED_OTHERWISE.items() if mark in shapes), None),
    )


def _refuse_unknown_parts(name: str, shapes: Shapes, single_file: SingleFile) -> None:
    """Refuse a part that is there under names which diffusers does not read.

    It would count as absent, and another one would be fetched in its place without a word.
    """
    known, prefixed = [_DENOISER], any(tensor.startswith(_DENOISER) for tensor in shapes)
    for part, names in single_file.parts.items():
        if any(sign in shapes for sign in names.signs):
            known.extend(names.prefixes)
        elif any(tensor.startswith(names.prefixes) for tensor in shapes):
            (prefix, *_) = [one for one in names.prefixes if any(t.startswith(one) for t in shapes)]
            raise _refused(name, f"its {part} ({prefix}) has names that are not known here")
    for tensor in sorted(shapes):
        if tensor.startswith((*known, *_OF_NO_USE)):
            continue
        # Beside a denoiser that has its prefix nothing else has a matrix.
        if (prefixed and len(shapes[tensor]) > 1) or _PART.match(tensor):
            raise _refused(name, f"it has a part whose names are not known here: {tensor[:80]}")


def _single_file(kind: Kind) -> SingleFile:
    single_file = FAMILIES[kind].single_file
    assert single_file is not None, "only kinds that have checkpoints in one file are recognised"
    return single_file


def kinds_of_denoiser(names: Iterable[str]) -> frozenset[Kind]:
    """The kinds of a diffusers folder whose denoiser has these tensors; none: not known."""
    stems = {name.split(".", 1)[0] for name in names}
    if "single_transformer_blocks" in stems:
        return frozenset({"flux"})
    if {"transformer_blocks", "context_embedder"} <= stems:
        return frozenset({"sd3"})
    if {"down_blocks", "up_blocks", "conv_in"} <= stems:
        return frozenset({"sd", "sdxl"})
    return frozenset()


def _base_model(name: str, shapes: Shapes, denoiser: Shapes) -> BaseModelName | None:
    if "double_blocks.0.img_attn.norm.key_norm.scale" in denoiser:
        return _flux(name, denoiser)
    if "joint_blocks.0.context_block.adaLN_modulation.1.bias" in denoiser:
        return _sd3(denoiser)
    if "input_blocks.0.0.weight" in denoiser and "out.2.weight" in denoiser:
        return _u_net(name, shapes, denoiser)
    return None


def _flux(name: str, denoiser: Shapes) -> BaseModelName:
    if any(sign in denoiser for sign in _NOT_FLUX_1):
        raise _refused(name, "of a family that is loaded from a diffusers folder only")
    _check_input(name, denoiser, "img_in.weight", "final_layer.linear.weight")
    return "flux_dev" if "guidance_in.in_layer.weight" in denoiser else "flux_schnell"


def _sd3(denoiser: Shapes) -> BaseModelName:
    if "joint_blocks.37.x_block.mlp.fc1.weight" in denoiser:
        return "sd35_large"
    if "joint_blocks.0.x_block.attn2.qkv.weight" in denoiser:
        return "sd35_medium"
    return "sd3"


def _u_net(name: str, shapes: Shapes, denoiser: Shapes) -> BaseModelName | None:
    _check_input(name, denoiser, "input_blocks.0.0.weight", "out.2.weight")
    encoders = {".".join(tensor.split(".")[:2]) for tensor in shapes}
    if "label_emb.0.0.weight" in denoiser:
        alone = denoiser["label_emb.0.0.weight"][-1:] == (_REFINER_WIDTH,)
        if alone or "conditioner.embedders.0.model.text_projection" in shapes:
            raise _refused(name, "the refiner of SDXL, which makes no picture from a text alone")
        if not any(encoder.startswith("cond_stage_model.") for encoder in encoders):
            return "sdxl"
        raise _refused(name, "an unCLIP model, which needs a picture to start from")
    if "cond_stage_model.model" in encoders:
        return "sd2"
    if "cond_stage_model.transformer" in encoders:
        return "sd1"
    return _by_width(denoiser)


def _by_width(denoiser: Shapes) -> BaseModelName | None:
    for name, shape in denoiser.items():
        if name.endswith(".attn2.to_k.weight") and len(shape) == 2:
            return _BASE_OF_WIDTH.get(shape[1])
    return None


def _check_input(name: str, denoiser: Shapes, first: str, last: str) -> None:
    """A model that reads more than noise (a mask, a picture) has more channels in than out."""
    into, out = denoiser.get(first, ()), denoiser.get(last, ())
    if len(into) < 2 or not out:
        raise _refused(name, f"without a sound {first}")
    if into[1] != out[0]:
        raise _refused(name, "for inpainting, depth or editing: it needs a picture to start from")


def _otherwise(name: str, shapes: Shapes) -> ModelUnavailable:
    for piece, what in _OTHER_THINGS.items():
        if any(piece in tensor for tensor in shapes):
            return _refused(name, what)
    first = min(shapes, default="none")[:80]
    return UnknownTensors(
        f"{name}: no model that is known here (its first tensor is {first!r})", file=name
    )


def _refused(name: str, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: {what}", file=name)
