"""The base models that complete a single-file checkpoint.

Such a file has weights and nothing that says how to use them: no tokenizer, no scheduler, often no
text encoder. A diffusers folder of the same family has all of that. It provides the configuration
of every part, and the weights of the parts that the file lacks; both go below `config/`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from cli.download.local import resolve_local
from cli.download.source import ResolvedModel
from cli.download.sources import resolve
from cli.errors import Failure
from shared.models.checkpoints import Checkpoint
from shared.models.families import base_repository
from shared.models.folder import CONFIG, INDEX, OPTIONAL

_SHARDS = ".safetensors.index.json"


def check_config(config: str | None, *, single_file: bool) -> None:
    """Refuse a `--config` that cannot work, before anything is fetched. Raises `Failure`."""
    if config is None:
        return
    if not single_file:
        raise Failure("--config is for a checkpoint in one file; this model has its own")
    folder = Path(config)
    if folder.exists() and not (folder / INDEX).is_file():
        raise Failure(f"{config} has no {INDEX}: --config takes a diffusers folder")
    if not folder.exists() and ":" not in config:
        raise Failure(f"--config {config}: no such folder, and no reference")


def resolve_config(checkpoint: Checkpoint, config: str | None, root: Path) -> ResolvedModel:
    """The files that `checkpoint` lacks, with paths below `config/`. Raises `Failure`.

    `config` is a folder of this host or a reference; None means the family's base model. `root` is
    where models are installed.
    """
    if config is None and checkpoint.trained:
        raise Failure(
            f"it was trained with {checkpoint.trained}, of which its family's folder says nothing",
            hint="say where its own configuration is: --config FOLDER, or a reference",
        )
    reference = config or f"hf:{base_repository(checkpoint.base_model)}"
    folder = Path(reference)
    needed = partial(_needed, checkpoint=checkpoint)
    try:
        base = resolve_local(folder, root, keep=needed) if folder.exists() else resolve(reference)
    except Failure as failure:
        if config is None:
            failure.hint = f"{failure.hint}; or say where one is: --config FOLDER".lstrip("; ")
        raise
    if INDEX not in {file.path for file in base.files}:
        raise Failure(f"{reference} has no {INDEX}: --config takes a diffusers folder")
    files = tuple(
        replace(file, path=f"{CONFIG}{file.path}") for file in base.files if needed(file.path)
    )
    return replace(base, files=files, skipped=())


def _needed(path: str, checkpoint: Checkpoint) -> bool:
    part, inside, _ = path.partition("/")
    if not inside:
        return path == INDEX
    if part in OPTIONAL:
        return False
    if path.endswith((".safetensors", _SHARDS)):
        return part in checkpoint.possible_parts - checkpoint.parts
    return path.endswith((".json", ".txt", ".model"))
