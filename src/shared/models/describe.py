"""Describe a model's folder: what its files say about it becomes `dreamforge.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never, get_args

from shared.errors import ModelUnavailable
from shared.models.auto_pipelines import AUTO_PIPELINES, AutoPipeline
from shared.models.check import check_folder
from shared.models.checkpoints import kinds_of_denoiser, recognise
from shared.models.components import missing_parts
from shared.models.descriptor import (
    Defaults,
    Limits,
    ModelDescriptor,
    ModelFile,
    Source,
    Unused,
    checkpoint_hash,
)
from shared.models.esrgan import esrgan_scale
from shared.models.families import (
    DISTILLED,
    FAMILIES,
    Kind,
    LoraFamily,
    ModelFamily,
    kind_of_pipeline,
)
from shared.models.folder import (
    CONFIG,
    INDEX,
    ONE_FILE,
    PACKED,
    WEIGHTS,
    Layout,
    hash_file,
    layout_of,
    model_parts,
)
from shared.models.json_files import read_json
from shared.models.lora_width import lora_width
from shared.models.networks import Network
from shared.models.picture_tasks import REFERENCES, PictureTask, tasks_of
from shared.models.safetensors_header import tensor_shapes
from shared.models.scheduler_names import suitable
from shared.models.sides import native_side, side_limits, side_multiple
from shared.models.verify import validated
from shared.models.weights import part_sizes
from shared.models.weights_file import weights_shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class DescriptorInput:
    """What a descriptor says that is in no file. None: the folder's own configuration decides."""

    name: str
    version: str
    source: Source
    config_source: Source | None = None
    kind: Kind | None = None
    license: str | None = None
    defaults: Defaults | None = None
    limits: Limits | None = None
    default_preset: str = "cpu"
    vocabulary: tuple[str, ...] | None = None
    network: Network | None = None  # what a network is, where it is no ESRGAN


def describe_folder(folder: Path, chosen: DescriptorInput) -> ModelDescriptor:
    """Check and hash a model's folder, and describe it."""
    names = check_folder(folder, vocabularies=True)
    layout = layout_of(names)
    kind = chosen.kind or _kind_of(layout, folder, names, chosen.network)
    family = FAMILIES[kind]
    config = folder / CONFIG if layout == "single_file" else folder
    components: list[str] = []
    if layout != "network":
        components = _components(config)
        _check_parts(config, kind)
    network = chosen.network if kind == "network" else None
    scale = family.scale
    if layout == "network":
        scale = network.scale if network else esrgan_scale(tensor_shapes(folder, ONE_FILE))
    # The configuration of an upscaler says what it works on inside, not its input.
    pipeline = _auto_pipeline(config) if kind == "auto" else None
    multiple = side_multiple(config, family, pipeline)
    side = family.native_side if scale else native_side(config, family, pipeline)
    side = max(multiple, side // multiple * multiple)
    unused = _unused(config, kind, pipeline)
    steps, guidance = DISTILLED if "guidance" in unused else (family.steps, family.guidance)
    loras = _loras(kind, names)
    draws = ("generate",) if pipeline is None or pipeline.from_text else ()
    files = tuple(hashed(folder, name) for name in names)
    described = validated(
        {
            "name": chosen.name,
            "version": chosen.version,
            "kind": kind,
            "layout": layout,
            "license": chosen.license,
            "source": chosen.source,
            "config_source": chosen.config_source,
            "files": files,
            "parts": part_sizes(folder, names, layout, components),
            "checkpoint_sha256": checkpoint_hash(files),
            "defaults": chosen.defaults
            or {"width": side, "height": side, "steps": steps, "guidance": guidance},
            "limits": chosen.limits or side_limits(family, side, multiple),
            "side_multiple": multiple,
            "no_guidance": 1.0 if pipeline is None else pipeline.no_guidance,
            "unused": unused,
            "schedulers": _schedulers(config, family),
            "capabilities": ("upscale",) if scale else (*draws, *_tasks(config), *loras),
            "scale": scale,
            "architecture": network.architecture if network else None,
            "references": None if scale else REFERENCES.get(_class_of(config)),
            "lora_width": lora_width(config) if loras else None,
            "default_preset": chosen.default_preset,
            "vocabulary": chosen.vocabulary,
        }
    )
    assert isinstance(described, ModelDescriptor), "its kind is no LoRA's"
    return described


def _loras(kind: Kind, names: list[str]) -> tuple[Literal["lora"], ...]:
    """What it can do with LoRAs. They are added to numbers, and packed ones are none."""
    packed = any(map(PACKED.fullmatch, names))
    return ("lora",) if kind in get_args(LoraFamily) and not packed else ()


def _tasks(config: Path) -> tuple[PictureTask, ...]:
    """What it does with pictures, by the class that its index names."""
    return tasks_of(_class_of(config))


def _class_of(config: Path) -> str:
    return str(read_json(config, INDEX)["_class_name"])


def hashed(folder: Path, name: str) -> ModelFile:
    """One file of a folder, with its size and hash."""
    path = folder / name
    return ModelFile(path=name, size_bytes=path.stat().st_size, sha256=hash_file(path))


def _unused(config: Path, kind: Kind, pipeline: AutoPipeline | None) -> tuple[Unused, ...]:
    """What this model does not use, beyond what no model of its kind uses."""
    denoiser = "transformer/config.json"
    flag = FAMILIES[kind].guidance_flag
    if flag is not None and (config / denoiser).exists():
        return () if read_json(config, denoiser).get(flag) else ("guidance",)
    return () if pipeline is None or pipeline.negative_prompt else ("negative_prompt",)


def _auto_pipeline(config: Path) -> AutoPipeline:
    """The row of the class that the index names; refuses one that makes no picture from a text."""
    name = str(read_json(config, INDEX)["_class_name"])
    if name not in AUTO_PIPELINES:
        raise ModelUnavailable(
            f"{INDEX}: {name[:80]!r} is no pipeline that makes a picture from a text or edits one; "
            f"these do: {', '.join(sorted(AUTO_PIPELINES))}",
            file=INDEX,
        )
    return AUTO_PIPELINES[name]


def _check_parts(config: Path, kind: Kind) -> None:
    """Refuse an index that leaves out a part without which its pipeline cannot be loaded."""
    index = read_json(config, INDEX)
    stock = FAMILIES[kind].pipeline if kind != "auto" else None
    pipeline = stock or str(index["_class_name"])
    present = [part for part in _components(config) if str in map(type, index[part])]
    if missing := missing_parts(pipeline, present):
        raise ModelUnavailable(
            f"{INDEX}: {pipeline} needs {', '.join(missing)}, of which the index names no class",
            file=INDEX,
        )


def _schedulers(config: Path, family: ModelFamily) -> tuple[str, ...] | None:
    """The names that suit how this model was trained; None where all of its kind do."""
    own = "scheduler/scheduler_config.json"
    if not (config / own).exists():
        return None
    names = suitable(family.schedulers, read_json(config, own))
    return None if names == family.schedulers else names


def _components(config: Path) -> list[str]:
    """What an index lists as parts of the pipeline."""
    index = read_json(config, INDEX)
    return [name for name, entry in index.items() if isinstance(entry, list)]


def _kind_of_folder(folder: Path, names: list[str]) -> Kind:
    """What the index says, unless the weights contradict it."""
    kind = kind_of_pipeline(str(read_json(folder, INDEX)["_class_name"]))
    tensors: list[str] = []
    for name in names:
        if name.startswith(("unet/", "transformer/")) and name.endswith(WEIGHTS):
            tensors.extend(weights_shapes(folder, name))
    possible = kinds_of_denoiser(tensors)
    if possible and FAMILIES[kind].single_file is not None and kind not in possible:
        raise ModelUnavailable(
            f"{INDEX}: says {kind}, but the weights are those of {' or '.join(sorted(possible))}",
            file=INDEX,
        )
    return kind


def _kind_of_single_file(folder: Path, names: list[str]) -> Kind:
    """What the tensors of the file say; each part of the pipeline has its weights once."""
    (weights,) = (name for name in names if name.endswith(".safetensors") and "/" not in name)
    checkpoint = recognise(weights, tensor_shapes(folder, weights))
    index = read_json(folder / CONFIG, INDEX)
    for part in sorted(model_parts(index, names)):
        beside = any(n.startswith(f"{CONFIG}{part}/") and n.endswith(".safetensors") for n in names)
        if beside == (part in checkpoint.parts):
            problem = "twice, here and in" if beside else "neither here nor in"
            raise ModelUnavailable(f"{CONFIG}{part}/: its weights are {problem} {weights}")
    return checkpoint.kind


def _kind_of_network(folder: Path, network: Network | None) -> Kind:
    shapes = tensor_shapes(folder, ONE_FILE)
    if esrgan_scale(shapes) is not None:
        return "esrgan"
    if network is not None:
        return "network"
    base_model = recognise(ONE_FILE, shapes).base_model  # raises for what is no model at all
    raise ModelUnavailable(
        f"{ONE_FILE}: a checkpoint of {base_model}; "
        f"it needs its configuration beside it, in {CONFIG}"
    )


def _kind_of(layout: Layout, folder: Path, names: list[str], network: Network | None) -> Kind:
    match layout:
        case "diffusers":
            return _kind_of_folder(folder, names)
        case "single_file":
            return _kind_of_single_file(folder, names)
        case "network":
            return _kind_of_network(folder, network)
        case _:
            assert_never(layout)
