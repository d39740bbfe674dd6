"""The table of job types: a name and a class with the methods of `runner.job_types.base.Job`."""

from collections.abc import Callable

from runner.job_types.base import Job
from runner.job_types.generate import Generate
from runner.job_types.upscale import Upscale

JOB_TYPES: dict[str, Callable[[], Job]] = {"generate": Generate, "upscale": Upscale}
