"""The supervisor's core runs without database, broker and store: `tests/gpu` needs that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "sqlalchemy", "psycopg", "celery", "kombu", "redis", "minio", "fastapi"}


@pytest.mark.parametrize("module", ["supervisor.supervisor", "tests.gpu.test_gpu_reclaim"])
def test_the_core_imports_neither_database_broker_store_nor_torch(module: str) -> None:
    script = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))
