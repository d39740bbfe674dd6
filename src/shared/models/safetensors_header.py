"""The header of a safetensors file, read without trusting it.

    8 bytes, little-endian: the header's length
    the header, JSON: for each tensor dtype, shape and offsets
    the tensors' bytes, which the offsets must cover exactly once

The header is enough to recognise a truncated download, a sign-in page saved as a model, or a file
made to exhaust memory, and to know what the weights are of. No tensor is ever read. The library of
the format checks the header; it accepts three things that are refused here (see below).
Format: https://huggingface.co/docs/safetensors
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import ModelUnavailable
from shared.models.lfs import LFS_POINTER, NO_FILE_BUT_A_POINTER, is_lfs_pointer

# The format allows 100 MB. The largest header in use (a text encoder in many shards) is under
# 1 MiB, and parsing one takes some ten times its size in memory.
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 16  # no network has more
MAX_NAME_CHARACTERS = 512  # of a tensor; the longest in use have 150
MAX_REASON = 200  # characters of the library's message, which may quote the file

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The tensors of a file, and the texts that its writer left beside them.

    `dtypes` has the format's own names. The numbers begin at `data_offset`, in bytes.
    """

    shapes: Shapes
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    data_offset: int


def tensor_shapes(folder: Path, name: str) -> Shapes:
    """The shapes of a file's tensors, by name; `ModelUnavailable` says why it is unsound."""
    return read_header(folder, name).shapes


def read_header(folder: Path, name: str) -> Header:
    """The header of a file; `ModelUnavailable` says why it is unsound.

    Refused beyond what the library refuses: a header over `MAX_HEADER_BYTES`, before it is read; a
    name that occurs twice or is over `MAX_NAME_CHARACTERS`; a tensor of more than `MAX_DIMENSIONS`.
    """
    path = folder / name
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == LFS_POINTER[:8] and is_lfs_pointer(prefix + stream.read(len(LFS_POINTER))):
            raise ModelUnavailable(f"{name}: {NO_FILE_BUT_A_POINTER}", file=name)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _unsound(name, f"its header would be {length} bytes, in a file of {size_bytes}")
        header = stream.read(length)
    _refuse_duplicates(name, header)
    shapes, dtypes, metadata = _checked(name, prefix + header, size_bytes)
    if any(len(shape) > MAX_DIMENSIONS for shape in shapes.values()):
        raise _unsound(name, f"a tensor with more than {MAX_DIMENSIONS} dimensions")
    if any(len(tensor) > MAX_NAME_CHARACTERS for tensor in shapes):
        raise _unsound(name, f"a tensor's name of more than {MAX_NAME_CHARACTERS} characters")
    return Header(shapes=shapes, dtypes=dtypes, metadata=metadata, data_offset=8 + length)


def _refuse_duplicates(name: str, header: bytes) -> None:
    """Readers differ in which of two equal names they take."""

    def refuse(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise _unsound(name, "its header names something twice")
        return entries

    try:
        json.loads(header, object_pairs_hook=refuse)
    except (ValueError, RecursionError):
        raise _unsound(name, "its header is not JSON") from None


def _checked(
    name: str, start: bytes, size_bytes: int
) -> tuple[Shapes, Mapping[str, str], Mapping[str, str]]:
    """Shapes, dtypes and texts by the library, which checks offsets and that each byte is covered.

    The library maps the file that it opens, and a disk that fails under a map ends the process
    (SIGBUS). So it gets `start` in a file in memory, as long as the real one and otherwise empty.
    """
    # Not at the top: a process that reads no weights, such as the api, needs no such package.
    from safetensors import SafetensorError, safe_open

    with open(os.memfd_create("safetensors header"), "wb", buffering=0) as copy:
        copy.write(start)
        copy.truncate(size_bytes)
        try:
            with safe_open(f"/proc/self/fd/{copy.fileno()}", framework="np") as tensors:
                found = {k: tensors.get_slice(k) for k in tensors.keys()}
                shapes = {k: tuple(each.get_shape()) for k, each in found.items()}
                dtypes = {k: str(each.get_dtype()) for k, each in found.items()}
                return shapes, dtypes, dict(tensors.metadata() or {})
        except SafetensorError as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            plain = "".join(c if c.isprintable() else "?" for c in reason[:MAX_REASON])
            raise _unsound(name, f"{plain} (the file has {size_bytes} bytes)") from None


def _unsound(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: not a sound safetensors file: {why}", file=name)
