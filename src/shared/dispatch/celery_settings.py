"""What `api` and `supervisor` must agree on to send and receive notifications.

PostgreSQL has the jobs and Redis only wakes workers, so a lost message costs latency, never a job.
Only the two dispatch modules import Celery; here are plain values.
"""

from typing import Any

from shared.states import DEFAULT_QUEUE

TASK_NAME = "dreamforge.step"


def celery_queue(queue: str) -> str:
    """The broker's list for a step's queue: prefixed, since a Redis may serve others too."""
    return f"dreamforge.{queue}"


def celery_settings(redis_url: str) -> dict[str, Any]:
    """Settings of both sides; `docs/worker.md` says which failure each one prevents."""
    return {
        "broker_url": redis_url,
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": False,
        "task_publish_retry": False,
        "task_default_queue": celery_queue(DEFAULT_QUEUE),
        "task_create_missing_queues": True,
        "worker_pool": "threads",
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_enable_remote_control": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "visibility_timeout": 60,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }


def publisher_settings(redis_url: str, timeout_s: float) -> dict[str, Any]:
    """The same for a process that only sends: no wait on a socket is longer than `timeout_s`."""
    settings = celery_settings(redis_url)
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_retries": 0,
        "retry_on_timeout": False,
    }
    settings["broker_transport_options"] = settings["broker_transport_options"] | options
    settings["broker_connection_timeout"] = timeout_s
    settings["broker_connection_retry"] = False
    return settings
