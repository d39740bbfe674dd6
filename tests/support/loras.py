"""Small random LoRAs for the tiny models, in the forms that trainers write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from shared.models.describe import DescriptorInput
from shared.models.describe_lora import describe_lora
from shared.models.descriptor import LoraDescriptor, Source
from shared.models.folder import ONE_FILE
from shared.models.verify import write_descriptor

Array = np.ndarray[Any, np.dtype[np.float32]]
# By part of the pipeline and name of the layer: the two halves.
Pairs = Mapping[tuple[str, str], tuple[Array, Array]]
Tensors = dict[str, Array]

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
KOHYA = {
    "unet": "lora_unet",
    "transformer": "lora_unet",
    "text_encoder": "lora_te1",
    "text_encoder_2": "lora_te2",
    "text_encoder_3": "lora_te3",
}


def random_pairs(pipeline: Any, *, rank: int = 2, seed: int = 1, strength: float = 0.3) -> Pairs:
    """A pair for each layer of the denoiser and the text encoders, of any pipeline."""
    numbers = np.random.default_rng(seed)
    pairs = {}
    for part in PARTS:
        module = pipeline.components.get(part)
        for name, layer in module.named_modules() if module is not None else ():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                out, *into = layer.weight.shape
                down, up = (rank, *into), (out, rank, *(1 for _ in into[1:]))
                halves = (strength * numbers.standard_normal(each) for each in (down, up))
                first, second = (half.astype(np.float32) for half in halves)
                pairs[part, name] = first, second
    return pairs


def kohya(pairs: Pairs, *, alpha: float | None = None, text_encoder: str = "lora_te1") -> Tensors:
    """As kohya's trainers name them; `alpha` None: the rank, so that it divides by nothing."""
    tensors: Tensors = {}
    for (part, name), (down, up) in pairs.items():
        prefix = text_encoder if part == "text_encoder" else KOHYA[part]
        layer = f"{prefix}_{name.replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"], tensors[f"{layer}.lora_up.weight"] = down, up
        tensors[f"{layer}.alpha"] = np.array(len(down) if alpha is None else alpha, np.float32)
    return tensors


def diffusers(pairs: Pairs) -> Tensors:
    """As diffusers names them since it saves with PEFT."""
    return _named(pairs, ".lora_A.weight", ".lora_B.weight")


def older_diffusers(pairs: Pairs) -> Tensors:
    """As diffusers named them before."""
    return _named(pairs, ".lora.down.weight", ".lora.up.weight")


def _named(pairs: Pairs, down_suffix: str, up_suffix: str) -> Tensors:
    tensors: Tensors = {}
    for (part, name), (down, up) in pairs.items():
        tensors[f"{part}.{name}{down_suffix}"], tensors[f"{part}.{name}{up_suffix}"] = down, up
    return tensors


FORMS: dict[str, Callable[[Pairs], Tensors]] = {
    "kohya": kohya,
    "diffusers": diffusers,
    "older diffusers": older_diffusers,
}


def of_parts(pairs: Pairs, parts: Iterable[str]) -> Pairs:
    return {key: halves for key, halves in pairs.items() if key[0] in parts}


def write(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """The file of a LoRA, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ONE_FILE, metadata=metadata)
    (folder / ONE_FILE).chmod(0o644)
    return folder


def install(root: Path, name: str, tensors: Tensors, version: str = "1") -> LoraDescriptor:
    """A described LoRA below `root`, where models lie."""
    folder = write(root / "lora" / f"{name}@{version}", tensors)
    descriptor = describe_lora(
        folder, DescriptorInput(name=name, version=version, source=Source(uri="tests"))
    )
    write_descriptor(folder, descriptor)
    return descriptor
