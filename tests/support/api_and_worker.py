"""A real API and a real worker that draws with a small model: what they do together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.api_harness import Api, running_api
from tests.support.database import migrate_and_empty
from tests.support.infrastructure import Infrastructure
from tests.support.tiny_model import register_tiny_model
from tests.support.worker_process import Worker, workers


@dataclass(frozen=True, slots=True)
class Scene:
    """An API and its first worker; `start` starts another one."""

    api: Api
    worker: Worker
    start: Callable[..., Worker]

    def progress(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.client.get(f"/v1/jobs/{job}/progress").json()
        return found

    def status(self, job: str) -> str:
        found: str = self.api.client.get(f"/v1/jobs/{job}").json()["status"]
        return found

    def events(self, job: str) -> list[dict[str, Any]]:
        lines = self.api.client.get(f"/v1/jobs/{job}/logs").text.splitlines()
        return [json.loads(line) for line in lines]

    def lines(self) -> list[dict[str, Any]]:
        """What the first worker has logged."""
        return [json.loads(line) for line in self.worker.log.read_text().splitlines()]


@contextmanager
def drawing(stack: Infrastructure, folder: Path, **ours: str) -> Iterator[Scene]:
    """Both, on an empty database; `ours` are settings of both.

    Runners are forked, as they are by default: the second step costs no import.
    """
    url = stack.environment["DF_DATABASE_URL"]
    migrate_and_empty(url)
    register_tiny_model(folder / "models", url)
    both = stack.environment | ours
    here = {
        "DF_MODELS_DIR": str(folder / "models"),
        "DF_DEVICE": "cpu",
        "DF_DRAIN_S": "0",
        "DF_RUNNER_START": "template",
    }
    with workers(folder / "worker", both | here) as start, running_api(both) as api:
        yield Scene(api, start(), start)
