"""The supervisor's core runs without database, broker and store: `tests/gpu` needs that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "sqlalchemy", "psycopg", "celery", "kombu", "redis", "minio", "fastapi"}
HEAVY |= {"opentelemetry"}


# What `tests/gpu` may need on a bare machine, and what comes with each: wheels that can be carried.
CARRIED = {
    "anyio", "psutil", "pynvml", "prometheus_client",
    "pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "dotenv",
    "typing_extensions", "typing_inspection",
    "jsonschema", "jsonschema_specifications", "referencing", "rpds", "attr", "attrs", "idna",
    "sniffio",  # anyio takes it where it is installed
    "pytest", "_pytest", "pluggy", "iniconfig", "pygments", "py", "pytest_timeout",
}  # fmt: skip


@pytest.mark.parametrize("module", ["tests.gpu.test_gpu_reclaim", "tests.gpu.test_gpu_hostile"])
def test_the_reclaim_tests_need_only_what_can_be_carried_to_a_gpu(module: str) -> None:
    script = (
        f"import json, sys, {module};"
        "print(json.dumps({n.partition('.')[0]: m.__file__ for n, m in sys.modules.items()"
        " if 'site-packages' in (getattr(m, '__file__', None) or '')}))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert {name for name in json.loads(done.stdout) if name != "_distutils_hack"} <= CARRIED


@pytest.mark.parametrize("module", ["supervisor.supervisor", "tests.gpu.test_gpu_reclaim"])
def test_the_core_imports_neither_database_broker_store_nor_torch(module: str) -> None:
    script = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))
