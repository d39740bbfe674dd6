"""Refuse a model's folder that must not or cannot be loaded.

What an index names is what the libraries open and import. So each index is held to the folder: the
pipeline's own to the classes of `shared.models.components`, those of weights to the safetensors
beside them, and neither may be anywhere else.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import ModelUnavailable
from shared.models.components import READ_THEIR_CARD, has_weights, is_allowed
from shared.models.folder import (
    CONFIG,
    CONFIGS_OF_MODELS,
    INDEX,
    OPTIONAL,
    PACKED,
    SAFE_INDEX,
    WEIGHTS,
    Layout,
    layout_of,
    list_files,
    reading,
)
from shared.models.json_files import check_json_files, read_json
from shared.models.weights_file import weights_shapes

_CARD = "README.md"


def check_folder(folder: Path, *, vocabularies: bool = False) -> list[str]:
    """Refuse a folder that must not or cannot be loaded; return its files, sorted.

    `vocabularies` reads the large files of tokenizers too, which takes up to a second.
    """
    files = list_files(folder)
    layout = layout_of(files)
    base = CONFIG if layout == "single_file" else ""
    _refuse_nested_pipelines(files, base)
    check_json_files(folder, files, vocabularies=vocabularies)
    _check_packed(files, layout)
    if layout == "single_file":
        _check_single_file(files)
    if layout != "network":  # it has no parts; its tensors say what it is
        _check_index(folder, files, base=base)
    for name in files:
        if SAFE_INDEX.fullmatch(name):
            _check_shards(folder, name, files)
        elif name.endswith(WEIGHTS):
            with reading(name):
                weights_shapes(folder, name)
    return files


def _refuse_nested_pipelines(files: list[str], base: str) -> None:
    """A part that is itself a pipeline would be loaded by rules of its own."""
    for name in files:
        if PurePosixPath(name).name == INDEX and name != base + INDEX:
            raise ModelUnavailable(
                f"{name}: a pipeline inside a pipeline; the parts of a model are no pipelines",
                file=name,
            )


def _check_single_file(files: list[str]) -> None:
    weights = [name for name in files if name.endswith(".safetensors")]
    alone = [name for name in weights if "/" not in name]
    astray = [name for name in weights if "/" in name and not name.startswith(CONFIG)]
    if len(alone) != 1 or astray:
        raise ModelUnavailable(
            "a single-file model has exactly one safetensors file at its top, beside its config/; "
            f"found: {', '.join(alone + astray) or 'none'}"
        )


def _check_packed(files: list[str], layout: Layout) -> None:
    """A packed transformer is in one file, and its weights are there once."""
    packed = [name for name in files if PACKED.fullmatch(name)]
    if not packed:
        return
    if layout != "diffusers":
        raise _refused(packed[0], "a packed transformer belongs into a folder of diffusers")
    others = [n for n in files if n.startswith("transformer/") and n.endswith(".safetensors")]
    if len(packed) > 1 or others:
        raise _refused(
            packed[0], f"the transformer's weights are there more than once: {(packed + others)[1]}"
        )


def _check_index(folder: Path, files: list[str], *, base: str) -> None:
    """`base` is where the index and the parts are: empty for the top, or `config/`."""
    name_of_index = base + INDEX
    index = read_json(folder, name_of_index)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise _refused(name_of_index, "_class_name must name a stock pipeline")
    if not isinstance(index.get("_diffusers_version", ""), str):
        raise _refused(name_of_index, "_diffusers_version must be a text")
    if pipeline in READ_THEIR_CARD and base + _CARD in files:
        raise _refused(base + _CARD, f"{pipeline} would load what it names; take it away")
    for component, entry in index.items():
        if isinstance(entry, list):
            _check_entry(folder, files, base, component, entry)


def _check_entry(
    folder: Path, files: list[str], base: str, component: str, entry: list[Any]
) -> None:
    match entry:
        case [None, None]:
            return
        case [str() as library, str() as name] if is_allowed(component, library, name):
            weights = not base and has_weights(library, name)
            _check_component(base + component, files, weights=weights)
        case [str() as library, str() as name]:
            raise _refused(
                base + INDEX,
                f"{component} asks for code outside diffusers, or for a class that no {component} "
                f"of a known pipeline has: {library[:80]!r}, {name[:80]!r}",
            )
        case _ if all(isinstance(each, int | float) for each in entry):
            return  # a plain value of the pipeline's own configuration
        case _:
            raise _refused(base + INDEX, f"{component} must name one library and one class of it")


def _check_component(component: str, files: list[str], *, weights: bool) -> None:
    """One component of an index. `weights`: whether it must have its own."""
    own = [name for name in files if name.startswith(f"{component}/")]
    if not own:
        if component.removeprefix(CONFIG) in OPTIONAL:
            return
        raise ModelUnavailable(f"{component}/: missing", file=f"{component}/")
    if not weights:
        return
    if not any(name.endswith(".safetensors") or PACKED.fullmatch(name) for name in own):
        raise ModelUnavailable(f"{component}/: no safetensors file", file=f"{component}/")
    if f"{component}/{CONFIGS_OF_MODELS}" not in own:
        raise _refused(f"{component}/{CONFIGS_OF_MODELS}", "missing")


def _check_shards(folder: Path, name: str, files: list[str]) -> None:
    """An index of weights names safetensors of its own folder."""
    index = read_json(folder, name)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(each, str) for each in shards.values()):
        raise _refused(name, "weight_map must be an object of file names")
    if not isinstance(index.get("metadata"), dict):
        raise _refused(name, "metadata must be an object: without it no library reads the index")
    place = name.rpartition("/")[0]
    for shard in sorted(set(shards.values())):
        path = f"{place}/{shard}".lstrip("/")
        if "/" in shard or not shard.endswith(".safetensors"):
            raise _refused(name, f"{shard[:80]!r} is no safetensors file of its folder")
        if path not in files:
            raise _refused(path, "missing")


def _refused(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: {why}", file=name)
