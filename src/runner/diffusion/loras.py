"""Add LoRAs to the weights of a loaded pipeline, before it is placed on a device.

    weight + scale * alpha / rank * (up @ down), in float32, rounded once

A changed layer gets new weights. The old ones are not written to: they may be shared with a
template and the runners that it forks, which must not see the change. A LoRA fits whole or not at
all: a layer that the pipeline does not have, or one of another shape, is `ModelUnavailable`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from runner.diffusion.lora_layers import Layers
from runner.diffusion.packed import is_packed
from shared.errors import ModelUnavailable
from shared.models.folder import ONE_FILE
from shared.models.lora_header import LoraPair, read_lora


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFile:
    """A LoRA to add: its folder, what messages call it, and how strongly."""

    label: str
    folder: Path
    scale: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Change:
    """What a pair of one LoRA adds to one layer: rows `start` to `stop` of its up half."""

    lora: LoraFile
    tensors: Any
    pair: LoraPair
    start: int
    stop: int


def add_loras(pipeline: Any, loras: Sequence[LoraFile], check: Callable[[], None]) -> None:
    """Change the weights of `pipeline`. `check` may raise to stop before each layer.

    Raises `ModelUnavailable` for a LoRA that does not fit, and for numbers that are none.
    """
    if loras and any(map(is_packed, pipeline.components.values())):
        raise ModelUnavailable(f"LoRA {loras[0].label}: this model's weights are packed")
    layers = Layers(pipeline)
    changes: dict[torch.nn.Module, list[_Change]] = {}
    with ExitStack() as files:
        for lora in loras:
            tensors = files.enter_context(safe_open(str(lora.folder / ONE_FILE), framework="pt"))
            for pair in read_lora(lora.folder).pairs:
                _plan(layers, lora, tensors, pair, changes)
        for layer, planned in changes.items():
            check()
            _apply(layer, planned)


def _plan(
    layers: Layers,
    lora: LoraFile,
    tensors: Any,
    pair: LoraPair,
    changes: dict[torch.nn.Module, list[_Change]],
) -> None:
    """Note what one pair changes; with scale 0 it is compared and changes nothing."""
    found = layers.find(pair.network, pair.layer)
    shapes = [
        tuple(layer.weight.shape) for layer in found if isinstance(layer.weight, torch.Tensor)
    ]
    if not found:
        raise ModelUnavailable(
            f"LoRA {lora.label}: it changes {pair.layer}, which this model's {pair.network} does "
            "not have"
        )
    rows = [shape[0] for shape in shapes]
    inputs = math.prod(pair.inputs)
    if sum(rows) != pair.outputs or any(
        math.prod(shape[1:]) != inputs or shape[1] != pair.inputs[0] for shape in shapes
    ):
        raise ModelUnavailable(
            f"LoRA {lora.label}: it changes {pair.layer} of shape "
            f"{[pair.outputs, *pair.inputs]}, and this model's has {[sum(rows), *shapes[0][1:]]}"
        )
    start = 0
    for layer, height in zip(found, rows, strict=True):
        if lora.scale:
            change = _Change(
                lora=lora, tensors=tensors, pair=pair, start=start, stop=start + height
            )
            changes.setdefault(layer, []).append(change)
        start += height


@torch.no_grad()
def _apply(layer: torch.nn.Module, changes: Sequence[_Change]) -> None:
    before = layer.weight
    assert isinstance(before, torch.Tensor), "only layers with weights are found"
    total = before.detach().to(torch.float32, copy=True)
    for change in changes:
        pair, tensors = change.pair, change.tensors
        up = tensors.get_slice(pair.up)[change.start : change.stop].to(torch.float32)
        down = tensors.get_tensor(pair.down).to(torch.float32)
        total.view(total.shape[0], -1).addmm_(up.flatten(1), down.flatten(1), alpha=_factor(change))
        after = total.to(before.dtype)
        if not bool(torch.isfinite(after).all()):
            raise ModelUnavailable(
                f"LoRA {change.lora.label}: with its scale of {change.lora.scale:g}, "
                f"{pair.layer} gets numbers that are none (NaN or infinite)"
            )
    layer.weight = torch.nn.Parameter(after, requires_grad=False)


def _factor(change: _Change) -> float:
    pair, scale = change.pair, change.lora.scale
    alpha = pair.alpha
    if pair.alpha_tensor is not None:
        alpha = float(change.tensors.get_tensor(pair.alpha_tensor))
    if alpha is None:
        return scale
    return scale * alpha / (math.sqrt(pair.rank) if pair.by_root else pair.rank)
