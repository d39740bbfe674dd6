"""Which named schedulers fit a model, compared with what their classes do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runner.diffusion.fit_schedulers import misfits_of_scheduler
from runner.diffusion.schedulers import keep_roots_real, replace_scheduler, start_at_first_level
from shared.models.families import DIFFUSION_SCHEDULERS
from shared.models.scheduler_names import suitable

# numpy 2 in diffusers' schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 4
USUAL = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}
NO_SIGNAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def fails(name: str, config: dict[str, Any]) -> bool:
    """Whether the scheduler of this name cannot take a job's steps with a model's configuration."""
    pipeline = SimpleNamespace(scheduler=SimpleNamespace(config=config))
    try:
        replace_scheduler(pipeline, name)
        keep_roots_real(pipeline.scheduler)
        start_at_first_level(pipeline.scheduler)
        return any(misfits_of_scheduler(pipeline.scheduler, STEPS))
    except (ValueError, NotImplementedError):
        return True


@pytest.mark.parametrize(
    ("config", "unfit"),
    [
        ({}, set()),
        ({"prediction_type": "v_prediction"}, set()),
        ({"prediction_type": "sample"}, {"pndm", "euler_a"}),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": False}, set()),
        (NO_SIGNAL, {"ddim", "pndm", "heun"}),
        (NO_SIGNAL | {"prediction_type": "v_prediction"}, {"pndm", "heun"}),
        ({"trained_betas": [0.01] * 1000, "beta_schedule": "exp"}, set()),
        # Options that other classes have under the same names.
        ({"solver_type": "bh1", "solver_order": 3, "predict_x0": False}, set()),
        ({"lower_order_final": False, "shift_terminal": 0.1, "solver_type": "heun"}, set()),
        ({"use_karras_sigmas": True, "use_lu_lambdas": True, "algorithm_type": "deis"}, set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:80],
)
def test_names_that_cannot_sample_are_left_out(config: dict[str, Any], unfit: set[str]) -> None:
    own = USUAL | config
    names = suitable(DIFFUSION_SCHEDULERS, own)
    assert set(DIFFUSION_SCHEDULERS) - set(names) == unfit
    assert [name for name in names if fails(name, own)] == []
    assert [name for name in unfit - {"pndm", "heun"} if not fails(name, own)] == []


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("betas", ["squaredcos_cap_v2", "scaled_linear"])
def test_the_ancestral_scheduler_takes_every_number_of_steps(betas: str, spacing: str) -> None:
    """Rounding made NaN of some: 4, with this schedule of betas."""
    config = USUAL | {"beta_schedule": betas, "timestep_spacing": spacing}
    pipeline = SimpleNamespace(scheduler=SimpleNamespace(config=config))
    replace_scheduler(pipeline, "euler_a")
    keep_roots_real(pipeline.scheduler)
    for steps in range(1, 51):
        pipeline.scheduler.set_timesteps(steps)
        levels = pipeline.scheduler.sigmas
        higher, lower = levels[:-1], levels[1:]
        up = (lower**2 * (higher**2 - lower**2) / higher**2) ** 0.5
        assert bool((lower**2 - up**2 >= 0).all()), steps


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
        {"prediction_type": "original_sample"},
        {"prediction_type": ["sample"]},
        {"beta_schedule": "exp"},
        {"beta_schedule": "sigmoid"},
        {"_class_name": "EDMDPMSolverMultistepScheduler"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler"},
    ],
    ids=str,
)
def test_a_model_of_another_kind_of_noise_has_its_own_scheduler_alone(
    config: dict[str, Any],
) -> None:
    assert suitable(DIFFUSION_SCHEDULERS, USUAL | config) == ()
