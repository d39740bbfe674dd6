"""Put the parts of a loaded pipeline onto a device, as a preset says.

    none        all of it stays there
    model       one part at a time, by accelerate
    group       a transformer's blocks take turns, by diffusers; decoders and packed ones stay
    sequential  one layer at a time, by accelerate

With a `storage_dtype` the layers of a transformer are held in 8 bits, and each is cast to the
preset's dtype while it computes. This is done here, behind the LoRAs: they are added to weights in
full precision, and the model that a template holds stays as its files have it, for steps of every
preset. A runner casts a copy of its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from diffusers.hooks import apply_group_offloading

from runner.diffusion.finite import decoders
from runner.diffusion.packed import is_packed
from shared.errors import ModelUnavailable
from shared.models.weights import is_transformer
from shared.protocol.messages import Device, Dtype, Offload, PresetSpec, StorageDtype

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
STORAGE_DTYPES: dict[StorageDtype, torch.dtype] = {"float8_e4m3fn": torch.float8_e4m3fn}
# With these a decoder is on the device at any moment, for previews.
DECODER_STAYS: frozenset[Offload] = frozenset({"none", "group"})


def put_on_device(pipeline: Any, preset: PresetSpec) -> None:
    """Cast and place a pipeline of the host.

    Raises `ModelUnavailable` for weights that 8 bits cannot hold, and for a model whose blocks
    cannot take turns.
    """
    if preset.storage_dtype is not None:
        for name, part in _transformers(pipeline):
            if not is_packed(part):  # which is smaller still
                _store_in_8_bits(name, part, preset.storage_dtype, preset.dtype)
    if (preset.offload, preset.device) != ("none", "cpu"):  # there it is already
        _PLACEMENTS[preset.offload](pipeline, preset.device)


def _store_in_8_bits(
    name: str, part: diffusers.ModelMixin, storage: StorageDtype, dtype: Dtype
) -> None:
    """Hold the layers of a transformer in `storage`; diffusers knows which ones must stay.

    These are norms, the layers that modulate them, and embeddings of places.
    """
    stored = STORAGE_DTYPES[storage]
    part.enable_layerwise_casting(storage_dtype=stored, compute_dtype=DTYPES[dtype])
    for layer, weight in part.named_parameters():
        # torch makes the largest number, 7E or FE, of all that are too large and of infinity.
        if weight.dtype == stored and bool((weight.view(torch.uint8) & 0x7F >= 0x7E).any()):
            raise ModelUnavailable(
                f"{name}: {layer[:200]} has a number that 8 bits cannot hold (they end "
                f"at {torch.finfo(stored).max:g}); take a preset without storage_dtype"
            )


def _offload_in_groups(pipeline: Any, device: Device) -> None:
    """Blocks of a transformer one after another, other parts layer by layer.

    On a GPU the next block is copied while one computes. What comes back to the host is not copied:
    the weights have stayed there. They are pinned block by block as they are copied, since torch
    would pin them for good in pieces of powers of two, almost twice the memory of the host.
    """
    streams = device == "cuda"
    options = {
        "onload_device": torch.device(device),
        "use_stream": streams,
        "low_cpu_mem_usage": streams,
    }
    transformers = dict(_transformers(pipeline))
    packed = [part for part in transformers.values() if is_packed(part)]
    staying = [*decoders(pipeline), *packed]
    for name, part in pipeline.components.items():
        if any(part is each for each in staying):
            # A decoder is small beside a block, and not called as a whole: it has two ways in.
            part.to(device)
        elif name in transformers:
            if not part._supports_group_offloading:
                raise ModelUnavailable(
                    f"{name}: the blocks of {type(part).__name__} cannot take turns; take a preset "
                    "with another offload than group"
                )
            part.enable_group_offload(offload_type="block_level", num_blocks_per_group=1, **options)
        elif isinstance(part, torch.nn.Module):
            apply_group_offloading(part, offload_type="leaf_level", **options)


def _transformers(pipeline: Any) -> Iterator[tuple[str, diffusers.ModelMixin]]:
    for name, part in pipeline.components.items():
        if is_transformer(name) and isinstance(part, diffusers.ModelMixin):
            yield name, part


def _go_layer_by_layer(pipeline: Any, device: Device) -> None:
    for name, part in _transformers(pipeline):
        if is_packed(part):
            raise ModelUnavailable(
                f"{name}: packed weights cannot go layer by layer; take a preset with another "
                "offload than sequential"
            )
    pipeline.enable_sequential_cpu_offload(device=device)


_PLACEMENTS: dict[Offload, Callable[[Any, Device], Any]] = {
    "none": lambda pipeline, device: pipeline.to(device),
    "model": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "group": _offload_in_groups,
    "sequential": _go_layer_by_layer,
}
