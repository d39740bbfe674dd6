"""Packages that only some models need: which they are, and whether this installation has them.

They are looked for by their files, and nothing is imported: the worker's supervisor asks, and so do
the doctor and a runner before it loads.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.errors import ModelUnavailable
from shared.models.descriptor import Descriptor
from shared.models.families import LORA
from shared.models.folder import CONFIG, INDEX, PACKED
from shared.models.json_files import read_json
from shared.models.networks import LIBRARY


@dataclass(frozen=True, slots=True)
class Library:
    """A package, the extra of ours that installs it, and what of a model needs it."""

    package: str
    extra: str
    needed_by: str

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None

    def require(self) -> None:
        """Raise `ModelUnavailable` where it is not installed."""
        if not self.is_installed:
            raise ModelUnavailable(
                f"{self.needed_by} needs the package {self.package}, which is not installed here; "
                f"install dreamforge[{self.extra}]"
            )


SPANDREL = Library(LIBRARY, "gan", "a network that enlarges")
GGUF = Library("gguf", "gguf", "a packed transformer")
TORCHVISION = Library("torchvision", "gan", "a processor of pictures and films")

# transformers makes none of these without torchvision: they prepare films too.
_OF_FILMS = frozenset({"PixtralProcessor", "Qwen2VLProcessor", "Qwen3VLProcessor"})


def libraries_of(folder: Path, descriptor: Descriptor) -> tuple[Library, ...]:
    """What the model or LoRA of a folder that was checked needs beyond what every runner has."""
    if descriptor.layout == "network":
        return () if descriptor.kind == LORA else (SPANDREL,)
    index = read_json(folder, (CONFIG if descriptor.layout == "single_file" else "") + INDEX)
    films = any(entry[-1] in _OF_FILMS for entry in index.values() if isinstance(entry, list))
    packed = any(PACKED.fullmatch(file.path) for file in descriptor.files)
    return (TORCHVISION,) * films + (GGUF,) * packed
