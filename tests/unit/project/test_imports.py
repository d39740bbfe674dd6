"""Heavy and secret things stay where they belong, whatever an import drags along.

import-linter checks what our own files import; only a fresh interpreter knows what comes with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

PYTHONPATH = os.pathsep.join(sys.path)
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "PIL"}
SERVICES = {"celery", "kombu", "sqlalchemy", "psycopg", "minio", "fastapi", "uvicorn"}


@cache
def brought_by(module: str) -> frozenset[str]:
    """Top-level names of what importing `module` adds to a fresh interpreter."""
    code = (
        f"import sys; before = set(sys.modules); import {module}\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    environ = {"PYTHONPATH": PYTHONPATH, "PATH": os.environ["PATH"]}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=110
    )
    assert ran.returncode == 0, ran.stderr
    return frozenset(ran.stdout.split())


@pytest.mark.parametrize("module", ["api.app", "api.server", "supervisor.worker"])
def test_a_service_never_loads_what_only_a_runner_needs(module: str) -> None:
    assert not brought_by(module) & HEAVY


@pytest.mark.parametrize("module", ["api.server", "supervisor.worker"])
def test_a_service_does_not_know_how_to_migrate(module: str) -> None:
    assert not brought_by(module) & {"alembic", "migrations"}


def test_the_api_knows_neither_runner_nor_supervisor() -> None:
    assert not brought_by("api.server") & {"runner", "supervisor", "psutil", "pynvml"}


def test_the_supervisor_does_not_know_the_api() -> None:
    assert "api" not in brought_by("supervisor.worker")


@pytest.mark.parametrize(
    ("module", "ours"),
    [("runner.entry", {"runner", "shared"}), ("supervisor.__main__", {"supervisor"})],
)
def test_what_a_spawned_runner_imports_first_is_the_standard_library(
    module: str, ours: set[str]
) -> None:
    """spawn imports the worker's `__main__` again in each runner, and then the runner's entry."""
    foreign = brought_by(module) - sys.stdlib_module_names - {"__mp_main__"}
    assert foreign == ours


def test_a_runner_carries_no_client_of_broker_database_or_store() -> None:
    assert not brought_by("runner.session") & (SERVICES | {"supervisor", "api", "cli"})
