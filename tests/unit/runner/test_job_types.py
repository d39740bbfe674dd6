"""The table of job types, and the page that describes it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from runner.job_types.registry import JOB_TYPES
from shared.progress import STAGES
from shared.protocol import messages
from shared.protocol.messages import INTERFACE

PAGE = (Path(__file__).parents[3] / "docs" / "job-types.md").read_text(encoding="utf-8")


def test_every_type_has_the_three_methods_and_the_weights_of_its_stages() -> None:
    assert JOB_TYPES.keys() == STAGES.keys()
    for make in JOB_TYPES.values():
        job = make()
        assert all(callable(getattr(job, name)) for name in ("prepare", "run", "cleanup"))
        job.cleanup()  # before anything was prepared: it must not mind


def test_the_page_lists_the_table_every_message_and_the_interface() -> None:
    for name, make in JOB_TYPES.items():
        assert isinstance(make, type)
        assert f"| `{name}` | `{make.__module__}.{make.__name__}` |" in PAGE
    said: set[str] = set()
    for union in (messages.FromRunner, messages.ToRunner):
        kinds: tuple[type[BaseModel], ...] = get_args(union)
        said |= {str(kind.model_fields["type"].default) for kind in kinds}
    assert {name for name in said if name not in PAGE} == set()
    numbers = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert max(int(number) for number in numbers if number.isdigit()) == INTERFACE
