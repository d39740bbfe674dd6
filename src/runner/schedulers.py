"""The stable scheduler names of `shared.registry.SCHEDULERS`, as diffusers classes and options.

A name is a promise to users: it keeps its meaning when diffusers renames a class. A test holds the
two lists equal. The model's own configuration (betas, prediction type, timestep spacing) is kept;
a name only chooses the integrator and its options.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A class by name in `diffusers`, and what is set over the model's own configuration."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


_DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}

CLASSES: dict[str, Scheduler] = {
    "ddim": Scheduler("DDIMScheduler"),
    # The Runge-Kutta start needs four steps at least, and every Stable Diffusion goes without it.
    "pndm": Scheduler("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": Scheduler("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler"),
    "heun": Scheduler("HeunDiscreteScheduler", {"use_karras_sigmas": False}),
    "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", _DPMPP_2M),
    "dpmpp_2m_karras": Scheduler(
        "DPMSolverMultistepScheduler", _DPMPP_2M | {"use_karras_sigmas": True}
    ),
    "dpmpp_2m_sde_karras": Scheduler(
        "DPMSolverMultistepScheduler",
        _DPMPP_2M | {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": Scheduler("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
    "flow_match_euler": Scheduler("FlowMatchEulerDiscreteScheduler"),
}


def replace_scheduler(pipeline: Any, name: str) -> None:
    """Give `pipeline` the scheduler of this name, configured by the model's own."""
    row = CLASSES[name]
    chosen = getattr(diffusers, row.name)
    pipeline.scheduler = chosen.from_config(pipeline.scheduler.config, **row.options)
