"""Which preset jobs of a new model get when they name none: decided once, when it is installed.

The largest preset that the memory of the live workers' GPUs allows and that can make a picture of
the model's own size; the CPU's where no worker has such a GPU. Jobs never choose by themselves:
another card tomorrow changes nothing until the operator says so (`--preset`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cli.errors import Failure
from cli.presets.catalogue import Fit, check_presets, get_preset, load_presets, workload_of
from cli.terminal.output import print_note
from shared.models.descriptor import ModelDescriptor
from shared.presets import Preset

if TYPE_CHECKING:
    from shared.db.workers import Worker

CPU = "cpu"


def preset_chooser(database_url: str, asked: str | None) -> Callable[[ModelDescriptor], str]:
    """What an installation asks when it knows the model. Raises `Failure` for an unknown preset."""
    known = load_presets()
    if asked is not None:
        preset = get_preset(known, asked)
        return lambda model: _require_fit(preset, model)
    largest_bytes = _largest_gpu_bytes(database_url)

    def choose(model: ModelDescriptor) -> str:
        fitting = [
            preset
            for preset in known.values()
            if preset.device == "cuda"
            and preset.memory_bytes <= largest_bytes
            and not _fit(preset, model).problem
        ]
        if fitting:
            return max(fitting, key=lambda preset: preset.memory_bytes).name
        print_note(
            f"jobs that name no preset get {CPU!r}: no live worker has a GPU that could hold it"
        )
        return CPU

    return choose


def _require_fit(preset: Preset, model: ModelDescriptor) -> str:
    problem = _fit(preset, model).problem
    if problem:
        raise Failure(
            f"preset {preset.name} cannot make a picture of {model.name}'s own size: {problem}",
            hint="`dreamforge preset list` shows what there is",
        )
    return preset.name


def _fit(preset: Preset, model: ModelDescriptor) -> Fit:
    (fit,) = check_presets([preset], workload_of(model))
    return fit


def _largest_gpu_bytes(database_url: str) -> int:
    from cli import backends
    from shared.db.workers import live_workers

    live: Sequence[Worker] = backends.transaction(database_url, live_workers)
    return max(
        (slot.capacity_bytes for worker in live for slot in worker.slots if slot.device == "cuda"),
        default=0,
    )
