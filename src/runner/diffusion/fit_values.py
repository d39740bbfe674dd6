"""Whether the values of a model's configurations can draw.

Libraries keep most values as they are and meet them in a step: a model is built with a text for a
number, and with an autoencoder whose latents are divided by 0.
"""

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]

# Numbers beyond it count nothing that a model has.
_MOST = 1 << 31
# What is added to a variance: negative, it makes roots of negative numbers, from 1 on a grey area.
_EPSILON = re.compile(r"(?:.*_)?(?:eps|epsilon)")
_PROMPT = "a red apple"
_T5_TOKENS = 16


def misfits_of_values(part_class: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """What a part of a diffusers class cannot mean, by the parameters that the class has."""
    for name, parameter in inspect.signature(part_class.__init__).parameters.items():
        value = config.get(name)
        scalars = list(_scalars(value))
        if not _takes_text(parameter) and any(isinstance(each, str) for each in scalars):
            yield f"{name} is a text and should be a number"
        elif any(_is_odd(each) for each in scalars):
            yield f"{name} is beyond every number in use"
    yield from misfits_of_epsilons(config)


def misfits_of_epsilons(config: Mapping[Any, Any]) -> Iterator[str]:
    """The numbers that keep a norm from dividing by 0, which a model meets in a step."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from misfits_of_epsilons(value)
        elif value is not None and _EPSILON.fullmatch(str(name)) and not _is_between(value, 0, 1):
            yield f"{name} must be a number from 0 to less than 1"


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _scalars(each)
    else:
        yield value


def _takes_text(parameter: inspect.Parameter) -> bool:
    """Whether a text may stand there, or the class does not say what may."""
    if isinstance(parameter.default, str) or parameter.annotation is inspect.Parameter.empty:
        return True
    annotation = parameter.annotation
    spelled = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return any(word in spelled for word in ("str", "Any", "Literal"))


def _is_odd(value: Any) -> bool:
    return isinstance(value, int | float) and not abs(value) < _MOST


def _is_between(value: Any, low: float, high: float) -> bool:
    """Not the high one itself. NaN is between nothing."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high


# Autoencoders -------------------------------------------------------------------------------------


def misfits_of_autoencoder(config: Mapping[str, Any], *, shifts: bool) -> Iterator[str]:
    """By what its latents are divided and moved. `shifts`: its pipeline adds the shift unasked."""
    if "scaling_factor" in config and not _is_scale(config["scaling_factor"]):
        yield "scaling_factor must be a number above 0"
    shift = config.get("shift_factor")
    if (shift is None and shifts) or not _is_between(shift or 0, -_MOST, _MOST):
        yield "shift_factor must be a number"
    for name, least in (("latents_mean", -_MOST), ("latents_std", 0)):
        values = config.get(name)
        if values is not None and not _are_per_channel(values, least, config):
            yield f"{name} must be a list of numbers, one for each channel"
    if _tile(config) < 2:
        yield "sample_size is too small for its tiles"


def _is_scale(value: Any) -> bool:
    return _is_between(value, 0, _MOST) and value > 0


def _are_per_channel(values: Any, least: float, config: Mapping[str, Any]) -> bool:
    """`latents_std` divides, so none of its numbers may be 0."""
    channels = config.get("z_dim", config.get("latent_channels"))
    return (
        isinstance(values, list | tuple)
        and (channels is None or len(values) == channels)
        and all(_is_between(each, least, _MOST) and (each != 0 or least < 0) for each in values)
    )


def _tile(config: Mapping[str, Any]) -> float:
    """The side of a tile in latents, of which a quarter overlaps the next; infinite without one."""
    size, blocks = config.get("sample_size"), config.get("block_out_channels")
    if size is None or not isinstance(blocks, list | tuple):
        return math.inf
    side: float = size[0] if isinstance(size, list | tuple) else size
    return side / float(1 << max(0, len(blocks) - 1))


def misfits_of_decoder(model_class: Any, config: Mapping[str, Any]) -> Iterator[str]:
    """Decode latents without any storage: names and shapes alone. Raises what the model raises."""
    with init_empty_weights(include_buffers=True), torch.inference_mode():
        model = model_class.from_config(config).eval()
        latents = torch.empty((1, model.config.latent_channels, 4, 4), device="meta")
        channels = model.decode(latents, return_dict=False)[0].shape[1]
    if channels != 3:
        yield f"it decodes to {channels} channels, and a picture has 3"


# Tokenizers ---------------------------------------------------------------------------------------


def misfits_of_tokenizer(tokenizer: Any, encoder: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Tokens that the text encoder beside it has no place for; `kind` is the encoder's class."""
    vocabulary = encoder.get("vocab_size")
    if kind.startswith("CLIPText"):
        most = tokenizer.model_max_length
        positions = encoder["max_position_embeddings"]
        if not (isinstance(most, int) and 2 < most <= positions):
            yield f"model_max_length is {most}, and its text encoder reads {positions}"
            return
        tokens = _tokens(tokenizer, padding="max_length", max_length=most, truncation=True)
    elif kind in ("T5EncoderModel", "UMT5EncoderModel"):
        tokens = _tokens(tokenizer, padding="max_length", max_length=_T5_TOKENS, truncation=True)
    else:
        tokens = _tokens(tokenizer)
    if isinstance(vocabulary, int) and any(token >= vocabulary for token in tokens):
        yield f"it makes the token {max(tokens)}, and its text encoder knows {vocabulary}"


def _tokens(tokenizer: Any, **options: Any) -> list[int]:
    reader = getattr(tokenizer, "tokenizer", tokenizer)  # a processor would take it for a picture
    return list(reader(_PROMPT, **options).input_ids)
