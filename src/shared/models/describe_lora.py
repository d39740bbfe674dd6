"""Describe a LoRA's folder: what its tensors say about it becomes `dreamforge.json`."""

import hashlib
from pathlib import Path

from shared.models.check import check_folder
from shared.models.describe import DescriptorInput, hashed
from shared.models.descriptor import LoraDescriptor, Range, checkpoint_hash
from shared.models.families import LORA
from shared.models.folder import HASH_CHUNK_BYTES, ONE_FILE, reading
from shared.models.lora_header import read_lora
from shared.models.verify import validated
from shared.models.weights import part_sizes


def describe_lora(folder: Path, chosen: DescriptorInput) -> LoraDescriptor:
    """Check and hash the folder of a LoRA, and describe it. Raises `ModelUnavailable`."""
    names = check_folder(folder, vocabularies=True)
    lora = read_lora(folder)
    least, most = lora.ranks
    files = tuple(hashed(folder, name) for name in names)
    described = validated(
        {
            "name": chosen.name,
            "version": chosen.version,
            "kind": LORA,
            "license": chosen.license,
            "source": chosen.source,
            "files": files,
            "parts": part_sizes(folder, names, "network", ()),
            "checkpoint_sha256": checkpoint_hash(files),
            "family": lora.family,
            "width": lora.width,
            "ranks": Range(min=least, max=most),
            "changed_numbers": lora.changed_numbers,
            "data_sha256": _hash_after(folder / ONE_FILE, lora.data_offset),
        }
    )
    assert isinstance(described, LoraDescriptor), "its kind says so"
    return described


def _hash_after(path: Path, offset: int) -> str:
    """SHA-256 of what comes after a file's header: trainers rewrite headers, and tools leave them
    out of the hash by which they know a LoRA."""
    digest = hashlib.sha256()
    with reading(path.name), path.open("rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
