"""GGUF files, written here: sound ones from tensors, and broken ones by their header."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ALIGNMENT = 32
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8
STRING, ARRAY, UINT32 = 8, 9, 4

# Name, sides (that of a row first), type, bytes.
Tensor = tuple[str, Sequence[int], int, bytes]
SOUND: list[Tensor] = [
    ("a.weight", (32, 2), Q8_0, b"\1" * 68),
    ("a.bias", (2,), F32, b"\2" * 8),
]


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = entry("general.architecture", STRING, text("flux"))


def of(
    tensors: Sequence[Tensor] = SOUND,
    entries: Sequence[bytes] = (ARCHITECTURE,),
    *,
    version: int = 3,
    offsets: Mapping[str, int] | None = None,
    counts: tuple[int, int] | None = None,
    alignment: int = ALIGNMENT,
) -> bytes:
    """A file. `offsets` and `counts` (of tensors and of entries) replace the right ones."""
    infos, data = b"", b""
    for name, sides, kind, raw in tensors:
        data += b"\0" * (-len(data) % alignment)
        offset = (offsets or {}).get(name, len(data))
        infos += text(name) + struct.pack("<I", len(sides))
        infos += b"".join(struct.pack("<Q", side) for side in sides)
        infos += struct.pack("<IQ", kind, offset)
        data += raw
    given = counts or (len(tensors), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, *given) + b"".join(entries) + infos
    return header + b"\0" * (-len(header) % alignment) + data


def q8_0(weight: torch.Tensor) -> bytes:
    """Groups of 32 numbers of a row: a scale in half precision, and a byte each."""
    groups = weight.detach().to(torch.float32).numpy().reshape(-1, 32)
    scales = np.abs(groups).max(axis=1, keepdims=True) / 127
    scales = scales.astype(np.float16)
    levels = np.round(groups / np.where(scales == 0, 1, scales).astype(np.float32))
    packed = np.concatenate(
        [scales.view(np.uint8), levels.clip(-127, 127).astype(np.int8).view(np.uint8)], axis=1
    )
    return packed.tobytes()


def of_weights(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Matrices with rows of whole groups as Q8_0, everything else in full, as tools write them."""
    tensors: list[Tensor] = []
    for name, weight in weights.items():
        packed = weight.ndim == 2 and weight.shape[1] % 32 == 0 and "norm" not in name
        plain = weight.detach().to(torch.float32).numpy().tobytes()
        kind, raw = (Q8_0, q8_0(weight)) if packed else (F32, plain)
        tensors.append((name, tuple(reversed(weight.shape)), kind, raw))
    return of(tensors)


def pack_transformer(folder: Path, weights: Mapping[str, Any]) -> Path:
    """Replace the weights of a folder's transformer by a packed file of `weights`."""
    for file in (folder / "transformer").glob("*.safetensors*"):
        file.unlink()
    packed = folder / "transformer" / "model-Q8_0.gguf"
    packed.write_bytes(of_weights(weights))
    return packed
