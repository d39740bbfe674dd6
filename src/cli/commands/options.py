"""Options that several commands share, each described once.

`create` and `generate` take the same options. `JobOptions` declares them as fields, and
`takes` gives them to a command: typer reads the options of a command from its signature.
"""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, Literal, TypeVar, get_type_hints

import typer

from cli.commands import completion
from cli.terminal.output import Output

R = TypeVar("R")


JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's id.", autocompletion=completion.job_ids),
]
Out = Annotated[Output, typer.Option("--output", "-o", help="How results are printed.")]
Width = Annotated[int | None, typer.Option(help="Pixels, a multiple of 8.")]
Height = Annotated[int | None, typer.Option(help="Pixels, a multiple of 8.")]
Preset = Annotated[str | None, typer.Option(help="Name of a preset; default: the model's.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="KEY=VALUE; may be repeated.")]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
    typer.Option(case_sensitive=False, help="Only lines of this level and above."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Watch until it ends; exit 1 if it fails.")]
Preview = Annotated[
    bool, typer.Option(help="Show it while it is made, if the terminal shows pictures.")
]
Save = Annotated[Path | None, typer.Option("--download", help="Save pictures there; waits.")]


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a generate job is made of. None leaves a value to the API's defaults."""

    prompt: Annotated[str, typer.Argument(help="What to draw.")]
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None
    image: Annotated[
        str | None, typer.Option(help="Picture to start from: a file, or the id of an input.")
    ] = None
    strength: Annotated[
        float | None, typer.Option(help="How far the result may leave the image, up to 1.")
    ] = None
    mask: Annotated[
        str | None, typer.Option(help="File or id; white is painted anew, black stays.")
    ] = None
    reference: Annotated[
        list[str] | None,
        typer.Option(help="File or id for an edit model; may be repeated."),
    ] = None
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:SCALE]", help="A LoRA and its strength; may be repeated."),
    ] = None
    width: Width = None
    height: Height = None
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None
    scheduler: Annotated[
        str | None, typer.Option(help="Sampler, such as euler or dpmpp_2m_karras.")
    ] = None
    seed: Annotated[int | None, typer.Option(help="Makes the batch reproducible.")] = None
    count: Annotated[int | None, typer.Option(help="How many pictures.")] = None
    format: Annotated[str | None, typer.Option(help="png, jpg or webp (lossless).")] = None
    upscale: Annotated[int | None, typer.Option(help="Enlarge in a second step: 2 or 4.")] = None
    upscale_impl: Annotated[str | None, typer.Option(help="auto, gan, diffusion, or resample.")] = (
        None
    )
    upscaler: Annotated[
        str | None, typer.Option(help="Id, name or name@version of an upscaler.")
    ] = None
    strict_scale: Annotated[
        bool, typer.Option("--strict-scale", help="Refuse an upscaler made for another scale.")
    ] = False
    model: Annotated[
        str | None,
        typer.Option(help="Id, name or name@version.", autocompletion=completion.models),
    ] = None
    preset: Preset = None
    priority: Annotated[
        Literal["high", "normal", "low"] | None, typer.Option(help="Among all users' jobs.")
    ] = None
    tag: Tags = None
    webhook: Annotated[str | None, typer.Option(help="Address that is told of the end.")] = None
    timeout: Annotated[float | None, typer.Option(help="Seconds a step may run.")] = None
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Write no parameters into the file.")
    ] = False
    idempotency_key: Annotated[str | None, typer.Option(help="Same key: same job.")] = None

    def request_fields(self) -> dict[str, Any]:
        """The request's fields beside prompt and model, by their names in the API."""
        return {
            "negative_prompt": self.negative_prompt,
            "strength": self.strength,
            "loras": [_lora(each) for each in self.lora] if self.lora else None,
            "width": self.width,
            "height": self.height,
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
            "seed": self.seed,
            "count": self.count,
            "format": self.format,
            "preset": self.preset,
            "priority": self.priority,
            "tags": dict(map(_key_and_value, self.tag)) if self.tag else None,
            "webhook": {"url": self.webhook} if self.webhook else None,
            "chain": self._chain(),
            "timeout_s": self.timeout,
            "embed_metadata": False if self.no_metadata else None,
        }

    def _chain(self) -> dict[str, Any] | None:
        upscale = {
            "scale": self.upscale,
            "impl": self.upscale_impl,
            "model_id": self.upscaler,
            "strict_scale": self.strict_scale or None,
        }
        upscale = {name: value for name, value in upscale.items() if value is not None}
        return {"upscale": upscale} if upscale else None


def _lora(text: str) -> dict[str, Any]:
    name, colon, scale = text.rpartition(":")
    if not colon:
        return {"model_id": text}
    try:
        strength = float(scale)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise typer.BadParameter(
            f"{text!r} is no name with a number behind it, such as name:0.8", param_hint="--lora"
        )
    return {"model_id": name, "scale": strength}


def _key_and_value(tag: str) -> tuple[str, str]:
    key, equals, value = tag.partition("=")
    if not equals:
        raise typer.BadParameter(f"{tag!r} is no key=value", param_hint="--tag")
    return key, value


def takes(
    record: type[R],
) -> Callable[[Callable[Concatenate[R, ...], None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a `record`: its fields become options."""
    types = get_type_hints(record, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=types[field.name],
        )
        for field in fields(record)  # type: ignore[arg-type]  # a dataclass
    ]

    def decorate(command: Callable[Concatenate[R, ...], None]) -> Callable[..., None]:
        _, *others = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def run(**values: Any) -> None:
            fields_of_record = {option.name: values.pop(option.name) for option in options}
            command(record(**fields_of_record), **values)

        others = [other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others]
        run.__signature__ = inspect.Signature([*options, *others])  # type: ignore[attr-defined]
        return run

    return decorate
