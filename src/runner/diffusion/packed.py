"""A transformer whose numbers are packed (GGUF), loaded by diffusers and unpacked layer by layer.

A layer unpacks its weights to the preset's dtype each time it computes. The header was checked
before (`shared.models.gguf_header`): the library that reads the file believes it.
"""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from shared.models.folder import INDEX, PACKED, list_files
from shared.models.libraries import GGUF

TRANSFORMER = "transformer"


def load_packed(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The packed transformer of a folder of diffusers, as an argument; empty without one.

    Raises `ModelUnavailable` where the library for it is not installed.
    """
    packed = [name for name in list_files(folder) if PACKED.fullmatch(name)]
    if not packed:
        return {}
    GGUF.require()
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    _, name = index[TRANSFORMER]
    (file,) = packed
    transformer = getattr(diffusers, name).from_single_file(
        str(folder / file),
        config=str(folder),
        subfolder=TRANSFORMER,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
        dtype=dtype,
        local_files_only=True,
    )
    return {TRANSFORMER: transformer}


def is_packed(part: Any) -> bool:
    """Whether a part of a pipeline is held as its GGUF file has it."""
    return getattr(part, "hf_quantizer", None) is not None
