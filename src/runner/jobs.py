"""The table of job types: a name and a class with the methods of `runner.interface.Job`."""

from __future__ import annotations

from collections.abc import Callable

from runner.generate import Generate
from runner.interface import Job
from runner.upscale import Upscale

JOB_TYPES: dict[str, Callable[[], Job]] = {"generate": Generate, "upscale": Upscale}
