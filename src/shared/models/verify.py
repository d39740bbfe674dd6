"""Model folders: read their descriptor, check them cheaply or fully, describe new ones.

    <root>/<kind>/<name>@<version>/dreamforge.json + the files of a diffusers model

Three depths of checking. `check_folder`: kinds of files, links, headers; milliseconds.
`check_installed`: that, and the descriptor with the sizes and the hash pinned on a step; what a
runner does before each load. `verify_model`: the content of every file; minutes for a large model,
done at installation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import ModelUnavailable
from shared.models.auto_pipelines import AUTO_PIPELINES, WITHOUT_NEGATIVE_PROMPT
from shared.models.checkpoints import KIND_OF_FAMILY, kinds_of_denoiser, recognise
from shared.models.descriptor import (
    MAX_SIDE,
    MIN_SIDE,
    MULTIPLE_OF,
    NEED_A_SIGNAL,
    SCHEDULERS,
    SCHEDULERS_OF,
    Defaults,
    Kind,
    Limits,
    ModelDescriptor,
    ModelFile,
    Range,
    Source,
    Unused,
    checkpoint_hash,
    parameter_problems,
    parameters_schema,
)
from shared.models.esrgan import esrgan_scale
from shared.models.folder import (
    CONFIG,
    DESCRIPTOR,
    INDEX,
    ONE_FILE,
    Layout,
    check_folder,
    hash_file,
    layout_of,
    model_parts,
    read_json,
    readable,
)
from shared.models.safetensors_header import tensor_shapes
from shared.models.weights import part_sizes

__all__ = [
    "DESCRIPTOR",
    "SCHEDULERS",
    "Defaults",
    "Limits",
    "ModelDescriptor",
    "ModelFile",
    "Range",
    "Source",
    "check_folder",
    "check_installed",
    "describe_folder",
    "parameter_problems",
    "parameters_schema",
    "read_model",
    "verify_model",
    "weights_hash",
    "write_descriptor",
]

KIND_OF_CLASS: dict[str, Kind] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "StableDiffusionUpscalePipeline": "sd_upscale",
    "StableDiffusionLatentUpscalePipeline": "sd_latent_upscale",
}
# What the stock upscaling pipelines multiply a side by.
SCALE_OF: dict[Kind, int] = {"sd_upscale": 4, "sd_latent_upscale": 2}
# What the makers of each family recommend: steps and guidance.
RECOMMENDED: dict[Kind, tuple[int, float]] = {
    "sd": (25, 7.5),
    "sdxl": (30, 5.0),
    "sd3": (28, 7.0),
    "flux": (28, 3.5),
    "auto": (25, 5.0),
    "esrgan": (1, 0.0),
    "sd_upscale": (50, 9.0),
    "sd_latent_upscale": (20, 0.0),
}
# Of a model into which its steps and the guidance were distilled, such as FLUX.1 schnell.
DISTILLED = (4, 0.0)
NATIVE_SIDE: dict[Kind, int] = {
    "sd": 512,
    "sdxl": 1024,
    "sd3": 1024,
    "flux": 1024,
    "auto": 512,
    "esrgan": 256,
    "sd_upscale": 128,
    "sd_latent_upscale": 512,
}


def read_model(folder: Path) -> ModelDescriptor:
    """The folder's descriptor; raises `ModelUnavailable` naming file and field."""
    return _validated(read_json(folder, DESCRIPTOR))


def check_installed(folder: Path, *, checkpoint_sha256: str) -> ModelDescriptor:
    """Check the folder, its sizes, and that it still is the checkpoint that a step was given."""
    descriptor = read_model(folder)
    _check_listed(folder, descriptor, check_folder(folder))
    if descriptor.checkpoint_sha256 != checkpoint_sha256:
        raise ModelUnavailable(
            f"{DESCRIPTOR}: another checkpoint is installed than the job was accepted with",
            file=DESCRIPTOR,
            wanted=checkpoint_sha256,
            installed=descriptor.checkpoint_sha256,
        )
    return descriptor


def verify_model(folder: Path, descriptor: ModelDescriptor) -> None:
    """Compare every byte with the descriptor; raises `ModelUnavailable` naming the first file."""
    _check_listed(folder, descriptor, check_folder(folder))
    for file in descriptor.files:
        if hash_file(folder / file.path) != file.sha256:
            raise ModelUnavailable(f"{file.path}: its content has changed", file=file.path)


def describe_folder(
    folder: Path,
    *,
    name: str,
    version: str,
    source: Source,
    config_source: Source | None = None,
    kind: Kind | None = None,
    license: str | None = None,
    defaults: Defaults | None = None,
    limits: Limits | None = None,
    default_preset: str = "cpu",
    vocabulary: tuple[str, ...] | None = None,
) -> ModelDescriptor:
    """Check and hash a model's folder; what is not given comes from its configuration."""
    names = check_folder(folder)
    layout = layout_of(names)
    kind = kind or KIND_OF_LAYOUT[layout](folder, names)
    scale = esrgan_scale(tensor_shapes(folder, ONE_FILE)) if layout == "network" else None
    files = tuple(
        ModelFile(
            path=path,
            size_bytes=(folder / path).stat().st_size,
            sha256=hash_file(folder / path),
        )
        for path in names
    )
    parts = folder / CONFIG if layout == "single_file" else folder
    scale = scale or SCALE_OF.get(kind)
    # Of an upscaler the configuration says what it works on inside, not what it is given.
    side = NATIVE_SIDE[kind] if scale else _native_side(parts, kind)
    unused = _unused(parts, kind)
    steps, guidance = DISTILLED if "guidance" in unused else RECOMMENDED[kind]
    return _validated(
        {
            "name": name,
            "version": version,
            "kind": kind,
            "layout": layout,
            "license": license,
            "source": source,
            "config_source": config_source,
            "files": files,
            "parts": part_sizes(folder, names, layout, _components(parts, layout)),
            "checkpoint_sha256": checkpoint_hash(files),
            "defaults": defaults
            or {"width": side, "height": side, "steps": steps, "guidance": guidance},
            "limits": limits or _limits(kind, side),
            "unused": unused,
            "schedulers": _schedulers(parts, kind),
            "capabilities": ("upscale",) if scale else ("generate",),
            "scale": scale,
            "default_preset": default_preset,
            "vocabulary": vocabulary,
        }
    )


def weights_hash(model: ModelDescriptor) -> str:
    """By what other tools know a checkpoint: the SHA-256 of its file, where it is only one."""
    weights = [file for file in model.files if file.path.endswith(".safetensors")]
    if model.layout == "single_file":  # what lies below config/ is known by other names
        weights = [file for file in weights if "/" not in file.path]
    return weights[0].sha256 if len(weights) == 1 else model.checkpoint_sha256


def write_descriptor(folder: Path, descriptor: ModelDescriptor) -> None:
    """Write `dreamforge.json`, readable by every user of the host."""
    path = folder / DESCRIPTOR
    path.write_text(descriptor.model_dump_json(indent=2, exclude_none=True) + "\n")
    path.chmod(0o644)


def _check_listed(folder: Path, descriptor: ModelDescriptor, found: list[str]) -> None:
    if layout_of(found) != descriptor.layout:
        raise ModelUnavailable(
            f"{DESCRIPTOR}: layout: says {descriptor.layout}, the files are those of "
            f"{layout_of(found)}",
            file=DESCRIPTOR,
        )
    listed = {file.path: file.size_bytes for file in descriptor.files}
    for name in sorted(listed.keys() ^ set(found)):
        problem = "missing" if name in listed else f"not listed in {DESCRIPTOR}"
        raise ModelUnavailable(f"{name}: {problem}", file=name)
    for name, size_bytes in listed.items():
        with readable(name):
            actual = (folder / name).stat().st_size
        if actual != size_bytes:
            raise ModelUnavailable(f"{name}: {actual} bytes, should be {size_bytes}", file=name)


def _validated(fields: dict[str, Any]) -> ModelDescriptor:
    """The descriptor, or `ModelUnavailable` that names the field that cannot be so."""
    try:
        return ModelDescriptor.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelUnavailable(
            f"{DESCRIPTOR}: {where + ': ' if where else ''}{first['msg']}", file=DESCRIPTOR
        ) from None


def _unused(parts: Path, kind: Kind) -> tuple[Unused, ...]:
    """What this model has no use for, beyond what its whole kind has none for."""
    denoiser = "transformer/config.json"
    if kind == "flux" and (parts / denoiser).exists():
        return () if read_json(parts, denoiser).get("guidance_embeds") else ("guidance",)
    if kind != "auto":
        return ()
    name = str(read_json(parts, INDEX)["_class_name"])
    if name not in AUTO_PIPELINES:
        raise ModelUnavailable(
            f"{INDEX}: {name} is no pipeline that makes a picture from a text alone; these do: "
            f"{', '.join(sorted(AUTO_PIPELINES))}",
            file=INDEX,
        )
    return ("negative_prompt",) if name in WITHOUT_NEGATIVE_PROMPT else ()


def _schedulers(parts: Path, kind: Kind) -> tuple[str, ...] | None:
    """The names that suit how this model was trained; None where all of its kind do."""
    own = "scheduler/scheduler_config.json"
    if not (parts / own).exists() or not read_json(parts, own).get("rescale_betas_zero_snr"):
        return None
    return tuple(name for name in SCHEDULERS_OF[kind] if name not in NEED_A_SIGNAL)


def _components(parts: Path, layout: Layout) -> list[str]:
    """What an index lists as parts of the pipeline."""
    index = {} if layout == "network" else read_json(parts, INDEX)
    return [name for name, entry in index.items() if isinstance(entry, list)]


def _kind_of_folder(folder: Path, names: list[str]) -> Kind:
    """What the index says, unless the weights contradict it."""
    kind = KIND_OF_CLASS.get(str(read_json(folder, INDEX)["_class_name"]), "auto")
    tensors: list[str] = []
    for name in names:
        if name.startswith(("unet/", "transformer/")) and name.endswith(".safetensors"):
            tensors.extend(tensor_shapes(folder, name))
    possible = kinds_of_denoiser(tensors)
    if possible and kind in KIND_OF_FAMILY.values() and kind not in possible:
        raise ModelUnavailable(
            f"{INDEX}: says {kind}, but the weights are those of {' or '.join(sorted(possible))}",
            file=INDEX,
        )
    return kind


def _kind_of_single_file(folder: Path, names: list[str]) -> Kind:
    """What the tensors of the file say; each part of the pipeline has its weights once."""
    (weights,) = (name for name in names if name.endswith(".safetensors") and "/" not in name)
    found = recognise(weights, tensor_shapes(folder, weights))
    index = read_json(folder / CONFIG, INDEX)
    for part in sorted(model_parts(index, names)):
        beside = any(n.startswith(f"{CONFIG}{part}/") and n.endswith(".safetensors") for n in names)
        if beside == (part in found.parts):
            problem = "twice, here and in" if beside else "neither here nor in"
            raise ModelUnavailable(f"{CONFIG}{part}/: its weights are {problem} {weights}")
    return found.kind


def _kind_of_network(folder: Path, names: list[str]) -> Kind:
    shapes = tensor_shapes(folder, ONE_FILE)
    if esrgan_scale(shapes) is not None:
        return "esrgan"
    family = recognise(ONE_FILE, shapes).family  # raises for what is no model at all
    raise ModelUnavailable(
        f"{ONE_FILE}: a checkpoint of {family}; it needs its configuration beside it, in {CONFIG}"
    )


KIND_OF_LAYOUT: dict[Layout, Callable[[Path, list[str]], Kind]] = {
    "diffusers": _kind_of_folder,
    "single_file": _kind_of_single_file,
    "network": _kind_of_network,
}


def _native_side(folder: Path, kind: Kind) -> int:
    """The side in pixels that the model was trained at, from its own configuration."""
    try:
        sample = read_json(folder, "unet/config.json").get("sample_size")
        blocks = read_json(folder, "vae/config.json").get("block_out_channels", [0] * 4)
    except ModelUnavailable:  # not a U-Net family
        return NATIVE_SIDE[kind]
    if not isinstance(sample, int) or sample < 1 or not isinstance(blocks, list):
        return NATIVE_SIDE[kind]
    side: int = sample * 2 ** (len(blocks) - 1)
    return side


def _limits(kind: Kind, side: int) -> dict[str, Any]:
    """A quarter to four times the native side: beyond that no model draws anything but texture.

    A GAN sees a picture in tiles, so that to it every size is the same.
    """
    multiple = MULTIPLE_OF[kind]
    low, high = max(MIN_SIDE, side // 4 // multiple * multiple), min(MAX_SIDE, side * 4)
    span = {"min": low, "max": high}
    if kind == "esrgan":
        span = {"min": MIN_SIDE, "max": MAX_SIDE}
    return {"width": span, "height": span}
