"""Choose the preset for jobs that name none, once, when their model is installed.

It is the largest preset that fits the memory of a live worker's GPU and can make a picture of the
model's own size, with all weights in full precision: 8 bits are for those who ask for them. It is
the CPU's preset when no worker has such a GPU. Jobs never choose by themselves:
another card tomorrow changes nothing until the operator says so (`--preset`).
"""

from collections.abc import Callable

from cli import backends
from cli.errors import Failure
from cli.presets.catalogue import check_preset, get_preset, load_presets, workload_of
from cli.terminal.output import print_note
from shared.db.workers import live_workers
from shared.models.descriptor import ModelDescriptor
from shared.presets import Preset

CPU = "cpu"


def preset_chooser(database_url: str, name: str | None) -> Callable[[ModelDescriptor], str]:
    """The rule for one installation: the named preset if it fits the model, else the largest.

    Raises `Failure` for an unknown name; the rule itself raises it for a preset that does not fit.
    """
    known = load_presets()
    if name is not None:
        preset = get_preset(known, name)
        return lambda model: _require_fit(preset, model)
    largest_bytes = _largest_gpu_bytes(database_url)

    def choose(model: ModelDescriptor) -> str:
        fitting = [
            preset
            for preset in known.values()
            if preset.device == "cuda"
            and preset.memory_bytes <= largest_bytes
            and not check_preset(preset, workload_of(model)).problem
            and preset.budget_for(model.kind).spec.storage_dtype is None
        ]
        if fitting:
            return max(fitting, key=lambda preset: preset.memory_bytes).name
        print_note(
            f"jobs that name no preset get {CPU!r}: no live worker has a GPU that could hold it"
        )
        return CPU

    return choose


def _require_fit(preset: Preset, model: ModelDescriptor) -> str:
    if problem := check_preset(preset, workload_of(model)).problem:
        raise Failure(
            f"preset {preset.name} cannot make a picture of {model.name}'s own size: {problem}",
            hint="`dreamforge preset list` shows what there is",
        )
    return preset.name


def _largest_gpu_bytes(database_url: str) -> int:
    workers = backends.transaction(database_url, live_workers)
    slots = [slot for worker in workers for slot in worker.slots]
    return max((slot.capacity_bytes for slot in slots if slot.device == "cuda"), default=0)
