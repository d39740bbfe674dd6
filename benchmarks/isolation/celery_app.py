"""How the client and the Celery worker reach each other, and the bucket of the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from minio import Minio

TASK, QUEUE, BUCKET = "benchmark.draw", "benchmark", "benchmark"


def connect(redis_url: str) -> Any:
    """A Celery application for long tasks: a process takes one message at a time."""
    app = Celery("benchmark", broker=redis_url, backend=redis_url)
    app.conf.update(
        task_default_queue=QUEUE, worker_prefetch_multiplier=1, worker_hijack_root_logger=False
    )
    return app


def open_store(environment: Mapping[str, str]) -> Minio:
    """The store that the environment names, as for our own services."""
    address = urlsplit(environment["DF_S3_ENDPOINT"])
    return Minio(
        address.netloc,
        access_key=environment["DF_S3_ACCESS_KEY"],
        secret_key=environment["DF_S3_SECRET_KEY"],
        secure=False,
        region="us-east-1",
    )
