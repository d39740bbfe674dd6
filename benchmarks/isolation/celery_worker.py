"""A Celery worker as people write one for this: one prefork process, the pipeline resident in it.

`celery -A benchmarks.isolation.celery_worker worker --pool prefork --concurrency 1`, with the
settings of broker and store, and `BENCH_FOLDERS`, in the environment. It keeps one model, as a GPU
has room for one, and loads the other when a task needs that.
"""

from __future__ import annotations

import io
import json
import os
from typing import Any
from uuid import uuid4

from benchmarks.isolation.celery_app import BUCKET, TASK, connect, open_store
from benchmarks.isolation.pipelines import Pipelines
from benchmarks.isolation.workload import Job
from celery.signals import worker_process_init

app = connect(os.environ["DF_REDIS_URL"])


class Process:
    """What a process of the pool has: its pipelines, and a client of the store."""

    def __init__(self) -> None:
        self.pipelines = Pipelines(json.loads(os.environ["BENCH_FOLDERS"]), keep=1)
        self.store = open_store(os.environ)


processes: list[Process] = []


def begin(**_: Any) -> None:
    """After the fork of the pool's process."""
    processes.append(Process())


def draw(job: dict[str, Any]) -> list[str]:
    """Draw, encode and store the pictures of a job; return their keys."""
    (process,) = processes
    keys = []
    for image in process.pipelines.pictures(Job(**job)):
        buffer = io.BytesIO()
        image.save(buffer, "png")
        keys.append(f"{uuid4()}.png")
        data = buffer.getvalue()
        process.store.put_object(
            BUCKET, keys[-1], io.BytesIO(data), len(data), content_type="image/png"
        )
    return keys


worker_process_init.connect(begin)
app.task(name=TASK)(draw)
