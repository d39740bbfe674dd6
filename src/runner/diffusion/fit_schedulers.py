"""Whether a scheduler of a model's folder can sample: it takes the steps of a small picture alone.

Its configuration decides only there what it asks for: how the noise is predicted, where the
timesteps lie, whether there are as many as a job asks for. What stands in for the model's answer
are fixed numbers, so that a result that is no number is the scheduler's doing.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

_LATENTS = (1, 4, 8, 8)
_FEW = 4  # what distilled models take, and the least that every integrator can begin with
# A point of time inside the ranges of all of them, for schedulers that shift by a picture's size.
_SHIFT = 1.0
_SEED = 0

# These want more of a step than a sample: what the step before left, or twice the channels. Their
# timesteps are asked for, and no step is taken.
_TIMESTEPS_ALONE = frozenset(
    {"CogVideoXDPMScheduler", "DDPMWuerstchenScheduler", "SCMScheduler", "UnCLIPScheduler"}
)
# Its pipelines tell it where to begin where they take another number of steps.
_OF_TWO_STEPS = frozenset({"SCMScheduler"})
_LEARNED = ("learned", "learned_range")  # a variance that the model says, in as many channels


def misfits_of_scheduler(scheduler: Any, steps: int) -> Iterator[str]:
    """Why no job could sample with it; `steps` is how many a job of its family takes by default.

    Whatever the scheduler raises goes on to the caller.
    """
    if type(scheduler).__name__ in _OF_TWO_STEPS:
        scheduler.set_timesteps(2, max_timesteps=torch.pi / 2)
        return
    for count in sorted({min(_FEW, steps), steps}):
        _set_timesteps(scheduler, count)
        if len(scheduler.timesteps) == 0:
            yield f"it has no timesteps for {count} steps"
        elif not _is_finite(scheduler.timesteps):
            yield f"its timesteps for {count} steps are no numbers"
        elif _steps_alone(scheduler) and not _is_finite(_sample(scheduler)):
            yield f"{count} steps make numbers that are no colours (NaN or infinite)"


def misfits_of_noise(scheduler: Any) -> Iterator[str]:
    """Why nothing could be noised with it: the scheduler of what an upscaler enlarges."""
    numbers = _numbers()
    levels = torch.tensor([scheduler.config.num_train_timesteps // 2])
    if not _is_finite(scheduler.add_noise(numbers, numbers, levels)):
        yield "it makes noise that is no number"


def _set_timesteps(scheduler: Any, count: int) -> None:
    parameters = inspect.signature(scheduler.set_timesteps).parameters
    options: dict[str, Any] = {}
    if scheduler.config.get("use_dynamic_shifting") and "mu" in parameters:
        options["mu"] = _SHIFT
    if "original_inference_steps" in parameters:  # as a job asks for it: long enough
        own = scheduler.config.original_inference_steps
        options["original_inference_steps"] = max(own, count)
    scheduler.set_timesteps(count, **options)


def _steps_alone(scheduler: Any) -> bool:
    return (
        type(scheduler).__name__ not in _TIMESTEPS_ALONE
        and scheduler.config.get("variance_type") not in _LEARNED
    )


def _sample(scheduler: Any) -> torch.Tensor:
    """What all of its steps make of noise."""
    numbers = _numbers()
    takes = inspect.signature(scheduler.step).parameters
    chance = {"generator": torch.Generator().manual_seed(_SEED)} if "generator" in takes else {}
    sample = numbers * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample, timestep)
        sample = scheduler.step(numbers, timestep, sample, return_dict=False, **chance)[0]
    return sample


def _numbers() -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(_LATENTS).numel()).reshape(_LATENTS)


def _is_finite(numbers: torch.Tensor) -> bool:
    return bool(torch.isfinite(torch.as_tensor(numbers)).all())
