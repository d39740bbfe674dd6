"""Refuse numbers that are no colours, before they are cut to eight bits.

NaN becomes black and infinity white when floats become pixels, so a damaged checkpoint, or one that
overflows in half precision, would give a picture that looks like a dark one. The check is where the
numbers are made: behind it libraries clamp them, and infinity cannot be told from white.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_REASON = (
    "the model made numbers that are no colours (NaN or infinite); its weights are damaged, or it "
    "overflows in this preset's precision (bfloat16 and float32 reach further than float16)"
)


_LATENTS_REASON = (
    "the sampling steps made NaN or infinity; the model's weights are damaged, or it overflows in "
    "this preset's precision (bfloat16 and float32 reach further than float16), or its scheduler "
    "cannot take this number of steps (another number or another `scheduler` may do)"
)


def check_finite(numbers: torch.Tensor, reason: str = _REASON) -> None:
    """Raise ValueError unless every one of `numbers`, of any shape, is finite."""
    if not bool(torch.isfinite(numbers).all()):
        raise ValueError(reason)


def check_decoders(pipeline: Any) -> None:
    """Let each decoder of a pipeline check what it is given and what it makes of it, whole pictures
    and merged tiles."""
    for decoder in decoders(pipeline):
        if not hasattr(decoder.decode, "checked"):
            decoder.decode = _checked(decoder.decode)


@contextmanager
def finite_pixels(pipeline: Any) -> Iterator[None]:
    """Around a call of a pipeline; raises ValueError for one without a decoder to check.

    Its denoiser makes pixels, and NaN is what a cast to eight bits refuses.
    """
    if any(decoders(pipeline)):
        yield
        return
    try:
        with np.errstate(invalid="raise"):
            yield
    except FloatingPointError:
        raise ValueError(_REASON) from None


def decoders(pipeline: Any) -> Iterator[Any]:
    """The parts that make a picture of latents."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module) and callable(getattr(part, "decode", None)):
            yield part


def _checked(decode: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(decode)  # pipelines look at its signature
    def checked(*args: Any, **kwargs: Any) -> Any:
        # Some decoders bound what they are given, or take the nearest of what they know: then what
        # they make is finite whatever it was made of.
        for given in (*args, *kwargs.values()):
            if isinstance(given, torch.Tensor) and given.is_floating_point():
                check_finite(given, _LATENTS_REASON)
        decoded = decode(*args, **kwargs)
        check_finite(decoded[0])  # a tuple, or an output that can be read as one
        return decoded

    checked.checked = True  # type: ignore[attr-defined]
    return checked
