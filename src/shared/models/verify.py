"""Check a model's folder against its descriptor, cheaply or fully.

    <root>/<kind>/<name>@<version>/dreamforge.json + the files of a diffusers model

Three depths of checking. `check_folder`: kinds of files, links, headers; milliseconds.
`check_installed`: that, and the descriptor with the sizes and the hash pinned on a step; what a
runner does before each load. `verify_model`: the content of every file; minutes for a large model,
done at installation.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.errors import ModelUnavailable
from shared.models.check import check_folder
from shared.models.descriptor import (
    Descriptor,
    LoraDescriptor,
    ModelDescriptor,
    parse_descriptor,
)
from shared.models.folder import DESCRIPTOR, WEIGHTS, hash_file, layout_of, reading
from shared.models.json_files import read_json
from shared.models.lora_header import read_lora


def read_descriptor(folder: Path) -> ModelDescriptor | LoraDescriptor:
    """The folder's descriptor; raises `ModelUnavailable` naming file and field."""
    return validated(read_json(folder, DESCRIPTOR))


def read_model(folder: Path) -> ModelDescriptor:
    """The descriptor of a model's folder; raises `ModelUnavailable` also for a LoRA's."""
    descriptor = read_descriptor(folder)
    if isinstance(descriptor, LoraDescriptor):
        raise ModelUnavailable(f"{DESCRIPTOR}: a LoRA, which is no model", file=DESCRIPTOR)
    return descriptor


def check_installed(folder: Path, *, checkpoint_sha256: str) -> ModelDescriptor | LoraDescriptor:
    """Check the folder, its sizes, and that it still is the checkpoint that a step names."""
    descriptor = read_descriptor(folder)
    _check_listed(folder, descriptor, check_folder(folder))
    if descriptor.checkpoint_sha256 != checkpoint_sha256:
        raise ModelUnavailable(
            f"{DESCRIPTOR}: another checkpoint is installed than the job was accepted with",
            file=DESCRIPTOR,
            wanted=checkpoint_sha256,
            installed=descriptor.checkpoint_sha256,
        )
    return descriptor


def verify_model(folder: Path, descriptor: Descriptor) -> None:
    """Compare every byte with the descriptor; raises `ModelUnavailable` naming the first file."""
    _check_listed(folder, descriptor, check_folder(folder, vocabularies=True))
    for file in descriptor.files:
        if hash_file(folder / file.path) != file.sha256:
            raise ModelUnavailable(f"{file.path}: its content has changed", file=file.path)
    if isinstance(descriptor, LoraDescriptor):
        _check_lora(folder, descriptor)


def _check_lora(folder: Path, descriptor: LoraDescriptor) -> None:
    """What a descriptor says of a LoRA decides which models it is let near."""
    lora = read_lora(folder)
    said = (descriptor.family, descriptor.width, descriptor.changed_numbers)
    if said != (lora.family, lora.width, lora.changed_numbers):
        raise ModelUnavailable(
            f"{DESCRIPTOR}: says family {descriptor.family}, width {descriptor.width} and "
            f"{descriptor.changed_numbers} changed numbers; the tensors are those of "
            f"{lora.family}, {lora.width} and {lora.changed_numbers}",
            file=DESCRIPTOR,
        )


def weights_hash(model: Descriptor) -> str:
    """The hash by which other tools know a checkpoint: that of its one file, if it is one."""
    weights = [file for file in model.files if file.path.endswith(WEIGHTS)]
    if model.layout == "single_file":  # the files below config/ have names of their own
        weights = [file for file in weights if "/" not in file.path]
    return weights[0].sha256 if len(weights) == 1 else model.checkpoint_sha256


def write_descriptor(folder: Path, descriptor: Descriptor) -> None:
    """Write `dreamforge.json`, readable by every user of the host."""
    path = folder / DESCRIPTOR
    text = descriptor.model_dump_json(indent=2, exclude_none=True) + "\n"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _check_listed(folder: Path, descriptor: Descriptor, files: list[str]) -> None:
    if layout_of(files) != descriptor.layout:
        raise ModelUnavailable(
            f"{DESCRIPTOR}: layout: says {descriptor.layout}, the files are those of "
            f"{layout_of(files)}",
            file=DESCRIPTOR,
        )
    listed = {file.path: file.size_bytes for file in descriptor.files}
    for name in sorted(listed.keys() ^ set(files)):
        problem = "missing" if name in listed else f"not listed in {DESCRIPTOR}"
        raise ModelUnavailable(f"{name}: {problem}", file=name)
    for name, size_bytes in listed.items():
        with reading(name):
            actual = (folder / name).stat().st_size
        if actual != size_bytes:
            raise ModelUnavailable(f"{name}: {actual} bytes, should be {size_bytes}", file=name)


def validated(fields: dict[str, Any]) -> ModelDescriptor | LoraDescriptor:
    """The descriptor, or `ModelUnavailable` that names the field that cannot be so."""
    try:
        return parse_descriptor(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelUnavailable(
            f"{DESCRIPTOR}: {where + ': ' if where else ''}{first['msg']}", file=DESCRIPTOR
        ) from None
