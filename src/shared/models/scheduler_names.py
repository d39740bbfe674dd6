"""Which named schedulers suit how a model was trained, by the configuration of its own one.

A name chooses an integrator and keeps the rest of that configuration. Some classes cannot work with
some of it, and fail in the first steps of a job, or draw noise. A test compares with the classes.
"""

from collections.abc import Mapping
from typing import Any

from shared.models.families import DIFFUSION_SCHEDULERS

# The classes of these cannot begin without any signal. With a model that was trained down to none
# (`rescale_betas_zero_snr`) they draw noise, or near it.
NEED_A_SIGNAL = ("pndm", "heun")
# What the network predicts, and which names cannot read it.
_PREDICTIONS: Mapping[str, tuple[str, ...]] = {
    "epsilon": (),
    "v_prediction": (),
    "sample": ("pndm", "euler_a"),
}
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
# Schedulers of models that were trained with another kind of noise than all of the named ones.
_OTHER_NOISE = ("EDM", "FlowMatch", "SCM", "UnCLIP", "CogVideoX", "DDPMWuerstchen")


def suitable(names: tuple[str, ...], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of `names` that can sample in place of the scheduler with this configuration."""
    unfit = _unfit(config)
    return tuple(name for name in names if name not in unfit)


def _unfit(config: Mapping[str, Any]) -> tuple[str, ...]:
    prediction = config.get("prediction_type", "epsilon")
    betas = config.get("beta_schedule", "linear")
    if (
        str(config.get("_class_name", "")).startswith(_OTHER_NOISE)
        or config.get("use_flow_sigmas")
        or prediction not in tuple(_PREDICTIONS)
        or (betas not in _BETAS and not config.get("trained_betas"))
    ):
        return DIFFUSION_SCHEDULERS
    unfit = _PREDICTIONS[prediction]
    if config.get("rescale_betas_zero_snr"):
        # DDIM divides by the signal where the network predicts noise.
        unfit += NEED_A_SIGNAL + (("ddim",) if prediction == "epsilon" else ())
    return unfit
