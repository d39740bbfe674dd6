"""Options that several commands share, each described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import completion
from cli.terminal.output import Output


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


Prompt = Annotated[str, typer.Argument(help="What to draw.")]
JobId = Annotated[
    str,
    typer.Argument(metavar="JOB", help="A job's id.", autocompletion=completion.job_ids),
]
Out = Annotated[Output, typer.Option("--output", "-o", help="How results are printed.")]
Negative = Annotated[str | None, typer.Option("--negative-prompt", help="What to avoid.")]
Width = Annotated[int | None, typer.Option(help="Pixels, a multiple of 8.")]
Height = Annotated[int | None, typer.Option(help="Pixels, a multiple of 8.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps.")]
Guidance = Annotated[float | None, typer.Option(help="How closely to follow the prompt.")]
Scheduler = Annotated[str | None, typer.Option(help="Sampler, such as euler or dpmpp_2m_karras.")]
Seed = Annotated[int | None, typer.Option(help="Makes the batch reproducible.")]
Count = Annotated[int | None, typer.Option(help="How many pictures.")]
Format = Annotated[str | None, typer.Option("--format", help="png or jpg.")]
Upscale = Annotated[int | None, typer.Option(help="Enlarge in a second step: 2 or 4.")]
UpscaleImpl = Annotated[
    str | None, typer.Option("--upscale-impl", help="auto, gan, diffusion, or resample.")
]
Upscaler = Annotated[
    str | None, typer.Option("--upscaler", help="Id, name or name@version of an upscaler.")
]
StrictScale = Annotated[
    bool, typer.Option("--strict-scale", help="Refuse an upscaler made for another scale.")
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Id, name or name@version.", autocompletion=completion.models),
]
Preset = Annotated[str | None, typer.Option(help="Name of a preset; default: the model's.")]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds a step may run.")]
Plain = Annotated[bool, typer.Option("--no-metadata", help="Write no parameters into the file.")]
Key = Annotated[str | None, typer.Option("--idempotency-key", help="Same key: same job.")]
Level = Annotated[
    LogLevel | None,
    typer.Option("--level", case_sensitive=False, help="Only lines of this level and above."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Watch until it ends; exit 1 if it fails.")]
Save = Annotated[Path | None, typer.Option("--download", help="Save pictures there; waits.")]
