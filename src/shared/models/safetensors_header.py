"""The header of a safetensors file, read without trusting it.

    8 bytes, little-endian: the header's length
    the header, JSON: for each tensor dtype, shape and offsets
    the tensors' bytes, which the offsets must cover exactly once

Reading the header is enough to tell a truncated download, a sign-in page saved as a model, or a
file that was made to exhaust memory, and to know what the weights are of. No tensor is ever read.
Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ModelUnavailable

# The format allows 100 MB. The largest header in use (a text encoder in many shards) is under
# 1 MiB, and parsing one takes some ten times its size in memory.
MAX_HEADER_BYTES = 16 << 20

# No network has more; the product of what a header claims must stay cheap to compute.
MAX_DIMENSIONS = 16
MAX_NUMBER = 2**63

BITS_OF_DTYPE = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensor_shapes(folder: Path, name: str) -> Shapes:
    """The shapes of a file's tensors, by name; `ModelUnavailable` says why it is unsound."""
    path = folder / name
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _broken(name, f"its header would be {length} bytes, in a file of {size_bytes}")
        raw = stream.read(length)
    tensors = _tensors(name, raw)
    _check_covered(name, tensors, size_bytes - 8 - length)
    return {key: tensor.shape for key, tensor in tensors.items()}


def _tensors(name: str, raw: bytes) -> dict[str, _Tensor]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):  # readers differ in which of two they take
            raise _broken(name, "its header names something twice")
        return found

    try:
        header = json.loads(raw, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise _broken(name, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(name, "its header is not a JSON object")
    return {key: _tensor(name, entry) for key, entry in header.items() if key != "__metadata__"}


def _tensor(name: str, entry: Any) -> _Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            if len(shape) <= MAX_DIMENSIONS and all(map(_is_size, (*shape, begin, end))):
                return _Tensor(dtype, tuple(shape), begin, end)
    raise _broken(name, "its header has an entry that is not a tensor")


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < MAX_NUMBER


def _check_covered(name: str, tensors: Mapping[str, _Tensor], data_bytes: int) -> None:
    """Every byte belongs to one tensor, and every tensor has the bytes that its shape needs."""
    covered = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        begin, end = tensor.begin, tensor.end
        if not begin <= end <= data_bytes:
            raise _broken(name, f"a tensor at {begin}..{end}, outside its {data_bytes} bytes")
        if begin != covered:
            raise _broken(name, f"a tensor begins at {begin}, the one before ends at {covered}")
        if tensor.dtype not in BITS_OF_DTYPE:
            raise _broken(name, f"unknown dtype {tensor.dtype[:16]!r}")
        if math.prod(tensor.shape) * BITS_OF_DTYPE[tensor.dtype] != (end - begin) * 8:
            raise _broken(name, f"a tensor at {begin}..{end} has not the bytes of its shape")
        covered = end
    if covered != data_bytes:
        raise _broken(name, f"its tensors need {covered} bytes, it holds {data_bytes}")


def _broken(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: not a sound safetensors file: {why}", file=name)
