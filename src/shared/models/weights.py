"""Which files of a model's weights are loaded, and how much its parts hold; no weight is read.

A folder may have its weights in several variants, which stand in the files' names ("fp16").
diffusers loads the plain ones by default, so a folder with nothing but a variant is loaded by the
name of that variant.

Numbers are counted, not bytes: a file in float32 takes half of its size in a preset of half
precision. `shared.presets` says what is on a device at once.

A transformer is a list of blocks of one shape, with little around them. Its blocks can take turns
on a device, and most of its weights can be held in 8 bits; so both are counted of it. Its names are
those of diffusers, or of the original code in a checkpoint of one file.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from shared.errors import ModelUnavailable
from shared.models.descriptor import PartSize
from shared.models.folder import CONFIG, PACKED, Layout
from shared.models.gguf_header import read_gguf
from shared.models.weights_file import weights_shapes

# What diffusers and transformers call weights. A variant stands before a shard's number, and
# behind it in files of some years ago.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors"
)
_PLAIN = ""
# The parts of a single file, by how the names of their tensors begin; the rest is one part more.
_IN_ONE_FILE = re.compile(
    r"(model\.diffusion_model|first_stage_model|vae|cond_stage_model"
    r"|conditioner\.embedders\.\d+|text_encoders\.\w+)\."
)
_REST = "model"
_DENOISERS_IN_ONE_FILE = frozenset({"model.diffusion_model", _REST})
# Of the parts of a pipeline, its transformers. A few have two.
_TRANSFORMER = re.compile(r"transformer(?:_\d)?")
# A tensor of a block. diffusers' groups are the entries of a module's own lists of modules.
_BLOCK = re.compile(r"(\w+\.\d+)\.")
_ORIGINAL_BLOCK = re.compile(r"((?:double_blocks|single_blocks|joint_blocks)\.\d+)\.")
# What keeps its precision: what diffusers' transformers name, what is around the blocks, and
# parameters of no layer. Where a name leaves it open it counts as precise, since a step may need
# less than was promised and not more.
_PRECISE = re.compile(r"norm|embed|adaln|pooler|^img_in\.|^proj_(?:in|out)\.|table$|^[^.]+$")
# The same in the names of the original code, which has other words for norms with a layer.
_ORIGINAL_PRECISE = re.compile(r"norm|embed|modulation|_mod\.|^final_layer\.|_in\.|^[^.]+$")
# The average of the weights while they were trained, beside the weights: diffusers leaves it out.
_NOT_LOADED = "model_ema."


def variant_of(files: Iterable[str]) -> str | None:
    """The variant by which a diffusers folder is loaded; None where every part has plain weights.

    Raises `ModelUnavailable` where diffusers would find nothing to load.
    """
    lacking = {part: names for part, names in _variants(files).items() if _PLAIN not in names}
    if not lacking:
        return None
    common = set.intersection(*lacking.values())
    if not common:
        available = ", ".join(
            f"{part}/ {', '.join(sorted(names))}" for part, names in lacking.items()
        )
        raise ModelUnavailable(
            f"no variant of the weights is there for every part; found: {available}"
        )
    return min(common)


def part_sizes(
    folder: Path, files: Sequence[str], layout: Layout, components: Iterable[str]
) -> dict[str, PartSize]:
    """The size of every part that is loaded, of a folder that was checked.

    `components` are those of its index. Raises `ModelUnavailable` for weights that diffusers would
    not find by their names.
    """
    below = CONFIG if layout == "single_file" else ""
    listed = [name for part in components for name in files if name.startswith(f"{below}{part}/")]
    _check_names(listed)
    loaded = list(loaded_weights(listed))
    if layout != "diffusers":
        loaded += [name for name in files if "/" not in name and name.endswith(".safetensors")]
    counts: dict[str, Counter[str]] = {}
    for name in loaded:
        for tensor, shape in weights_shapes(folder, name).items():
            if not tensor.startswith(_NOT_LOADED):
                counts.setdefault(_part(name, tensor), Counter())[tensor] += math.prod(shape)
    sizes = {part: size_of(part, numbers) for part, numbers in sorted(counts.items())}
    for name in filter(PACKED.fullmatch, loaded):
        packed_bytes = sum(tensor.size_bytes for tensor in read_gguf(folder, name).values())
        part = PurePosixPath(name).parent.name
        sizes[part] = sizes[part].model_copy(update={"packed_bytes": packed_bytes})
    return sizes


def is_transformer(part: str) -> bool:
    """Whether a part of a pipeline, by its name, is a transformer that draws."""
    return _TRANSFORMER.fullmatch(part) is not None


def size_of(part: str, numbers: Mapping[str, int]) -> PartSize:
    """The size of a part, by the numbers that each of its tensors holds."""
    size = PartSize(numbers=sum(numbers.values()), largest=max(numbers.values()))
    if is_transformer(part):
        block, precise = _BLOCK, _PRECISE
    elif part in _DENOISERS_IN_ONE_FILE:
        block, precise = _ORIGINAL_BLOCK, _ORIGINAL_PRECISE
    else:
        return size
    names = {_inside(part, tensor): number for tensor, number in numbers.items()}
    blocks = Counter[str]()
    for name, number in names.items():
        if (match := block.match(name)) is not None:
            blocks[match[1]] += number
    if not blocks:
        return size
    return PartSize(
        numbers=size.numbers,
        largest=size.largest,
        block=max(blocks.values()),
        outside=size.numbers - blocks.total(),
        precise=sum(number for name, number in names.items() if precise.search(name)),
    )


def _inside(part: str, tensor: str) -> str:
    """A tensor's name inside its part; a packed transformer may have that of a single file."""
    return tensor.removeprefix(f"{part}.").removeprefix("model.diffusion_model.")


def _check_names(files: Iterable[str]) -> None:
    variants = _variants(files)
    for name in files:
        part, _, file = name.rpartition("/")
        if file.endswith(".safetensors") and part not in variants:
            raise ModelUnavailable(
                f"{name}: not a name that diffusers loads (model.safetensors, "
                "diffusion_pytorch_model.safetensors, with a variant or in shards)",
                file=name,
            )


def _variants(files: Iterable[str]) -> dict[str, set[str]]:
    """The variants of each part, by its folder."""
    variants: dict[str, set[str]] = {}
    for name in files:
        part, _, file = name.rpartition("/")
        if part and (match := _WEIGHTS.fullmatch(file)):
            variants.setdefault(part, set()).add(match[1] or _PLAIN)
    return variants


def loaded_weights(files: Sequence[str]) -> Iterator[str]:
    """The files of each part that diffusers loads: those of one variant, and a packed one."""
    variants, chosen = _variants(files), variant_of(files) or _PLAIN
    for name in files:
        part, _, file = name.rpartition("/")
        if PACKED.fullmatch(name):
            yield name
        elif match := _WEIGHTS.fullmatch(file):
            # A part without the variant is loaded from its plain weights.
            variant = chosen if chosen in variants[part] else _PLAIN
            if (match[1] or _PLAIN) == variant:
                yield name


def _part(file: str, tensor: str) -> str:
    """The part that a tensor belongs to: its folder; at the top, the start of its name."""
    if "/" in file:
        return PurePosixPath(file).parent.name
    match = _IN_ONE_FILE.match(tensor)
    return match[1] if match else _REST
