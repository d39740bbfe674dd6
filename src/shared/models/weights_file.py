"""The tensors of a file of weights, by its header: safetensors, or a packed GGUF."""

from pathlib import Path

from shared.models.gguf_header import read_gguf
from shared.models.safetensors_header import Shapes, tensor_shapes


def weights_shapes(folder: Path, name: str) -> Shapes:
    """Names and shapes, as torch has them; `ModelUnavailable` says why the file is unsound."""
    if not name.endswith(".gguf"):
        return tensor_shapes(folder, name)
    return {tensor: entry.shape for tensor, entry in read_gguf(folder, name).items()}
