"""Models in the memory of the host: loaded by a step, or inherited from a template.

A model template loads one with `hold` and forks runners, which inherit it copy-on-write. A runner
asks with `obtain_model` for the model of its step, and gets the inherited one if it is the right
one and its files have not changed since. Else it loads: what a template holds saves time and
decides nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.diffusion import pipelines
from runner.diffusion.model_folder import guard_unchanged
from runner.upscalers import diffusion, networks
from shared.models.descriptor import Descriptor
from shared.models.folder import ONE_FILE
from shared.models.stamp import Stamp, stamp_of
from shared.models.verify import check_installed
from shared.protocol.messages import RunSpec
from shared.protocol.template_messages import HostModelSpec, Loader, host_model_of

# Each returns what its job type puts onto the device: a pipeline, or a network.
LOADERS: dict[Loader, Callable[[HostModelSpec, Descriptor], Any]] = {
    "generate": lambda spec, model: pipelines.load_on_host(
        spec.model.kind, Path(spec.model.folder), spec.dtype, layout=model.layout
    ),
    "gan": lambda spec, _: networks.load_network(Path(spec.model.folder) / ONE_FILE),
    "diffusion": lambda spec, _: diffusion.load_on_host(spec.model, spec.dtype),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HostModel:
    """What was loaded, and the stamp that the files had before."""

    spec: HostModelSpec
    stamp: Stamp
    descriptor: Descriptor
    loaded: Any


class _Held:
    """The model that this process holds for the processes that it forks."""

    model: HostModel | None = None


def hold(spec: HostModelSpec) -> None:
    """Load a model and keep it. Raises `ModelUnavailable` when its files are not as promised."""
    _Held.model = _load(spec, lambda: None)


def obtain_model(step: RunSpec, check: Callable[[], None]) -> HostModel | None:
    """The step's model, inherited or loaded now; None for a step without one.

    `check` may raise to stop before a load. Raises `ModelUnavailable` when the model's files are
    not as promised.
    """
    held, _Held.model = _Held.model, None
    if (spec := host_model_of(step)) is None:
        return None
    if held is not None and held.spec == spec and held.stamp == stamp_of(Path(spec.model.folder)):
        return held
    return _load(spec, check)


def _load(spec: HostModelSpec, check: Callable[[], None]) -> HostModel:
    folder = Path(spec.model.folder)
    with guard_unchanged(folder):
        stamp = stamp_of(folder)
        # The headers only: every hash was verified when the model was installed.
        model = check_installed(folder, checkpoint_sha256=spec.model.checkpoint_sha256)
        check()
        loaded = LOADERS[spec.loader](spec, model)
    return HostModel(spec=spec, stamp=stamp, descriptor=model, loaded=loaded)
