"""The scheduler names of `shared.models.families`, as classes and options of diffusers.

A name is a promise to users: it keeps its meaning when diffusers renames a class. A test holds the
two lists equal. The model's own configuration (betas, prediction type, timestep spacing) is kept;
a name chooses the integrator and its options, and where it puts the noise levels: those that a
folder's own scheduler may ask for are all set, or a name would mean something else in that folder.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A class by name in `diffusers`; `options` replace the model's own configuration, `unsaid`
    the class's defaults where that configuration says nothing."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    unsaid: dict[str, Any] = field(default_factory=dict)


# Spaced as the model was trained, and by none of the rules of which a scheduler takes one at most.
_AS_TRAINED = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_DPMPP_2M = _AS_TRAINED | {
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
}
_KARRAS = {"use_karras_sigmas": True}
# Its own options have the names of other classes' options, with other meanings: with theirs it
# makes NaN, or is refused.
_UNIPC = {
    "use_flow_sigmas": False,
    "shift_terminal": None,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
}

_DIGITS = 64  # of a level; one or two are enough

CLASSES: dict[str, Scheduler] = {
    # As every Stable Diffusion has it. The class clips samples by default, which is for models of
    # pixels, and a folder with another scheduler does not say that its latents must not be.
    "ddim": Scheduler("DDIMScheduler", unsaid={"clip_sample": False, "set_alpha_to_one": False}),
    # The Runge-Kutta start needs four steps at least, and every Stable Diffusion goes without it.
    "pndm": Scheduler("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": Scheduler("EulerDiscreteScheduler", _AS_TRAINED),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler"),
    "heun": Scheduler("HeunDiscreteScheduler", _AS_TRAINED),
    "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", _DPMPP_2M),
    "dpmpp_2m_karras": Scheduler("DPMSolverMultistepScheduler", _DPMPP_2M | _KARRAS),
    "dpmpp_2m_sde_karras": Scheduler(
        "DPMSolverMultistepScheduler",
        _DPMPP_2M | _KARRAS | {"algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": Scheduler("UniPCMultistepScheduler", _AS_TRAINED | _UNIPC),
    "flow_match_euler": Scheduler("FlowMatchEulerDiscreteScheduler", _AS_TRAINED),
}


def replace_scheduler(pipeline: Any, name: str) -> None:
    """Give `pipeline` the scheduler of this name, configured by the model's own."""
    row = CLASSES[name]
    chosen = getattr(diffusers, row.name)
    own = pipeline.scheduler.config
    unsaid = {key: value for key, value in row.unsaid.items() if key not in own}
    pipeline.scheduler = chosen.from_config(own, **row.options, **unsaid)


def keep_roots_real(scheduler: Any) -> None:
    """Let the ancestral scheduler take every number of steps.

    It takes the root of a difference that is near 0 where one level is far below the one before,
    as with `squaredcos_cap_v2`, and rounding makes that negative for some numbers of steps: NaN.
    There, and nowhere else, the lower level is moved by the last digit.
    """
    if not isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler):
        return
    original = scheduler.set_timesteps

    @functools.wraps(original)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        levels = scheduler.sigmas
        for index in range(len(levels) - 1):
            for _ in range(_DIGITS):
                if _has_root(levels[index], levels[index + 1]):
                    break
                levels[index + 1] = torch.nextafter(levels[index + 1], torch.zeros(()))

    scheduler.set_timesteps = set_timesteps


def _has_root(higher: torch.Tensor, lower: torch.Tensor) -> bool:
    """As the class computes it, in its order and precision."""
    up = (lower**2 * (higher**2 - lower**2) / higher**2) ** 0.5
    return bool(lower**2 - up**2 >= 0)


def start_at_first_level(scheduler: Any) -> None:
    """Let `scheduler` begin with its first noise level, as a picture from a text does.

    Else it looks for the first timestep among all of them, and takes the second of several that are
    equal, for pipelines that begin in the middle. Karras' spacing makes equal ones where a model
    was trained down to no signal at all, and then there are too few levels for the steps.
    """
    if not hasattr(scheduler, "set_begin_index"):
        return
    original = scheduler.set_timesteps

    @functools.wraps(original)  # pipelines look at its signature
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        scheduler.set_begin_index(0)  # setting timesteps forgets it

    scheduler.set_timesteps = set_timesteps
