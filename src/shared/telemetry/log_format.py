"""NDJSON logs on stderr: one object a line, with the fields that tie lines of one job together."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from shared.telemetry.log_writer import LogWriter


class _Formatter(JsonFormatter):
    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        moment = datetime.fromtimestamp(record.created, UTC)
        log_data["ts"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        log_data.pop("taskName", None)
        log_data.pop("color_message", None)  # uvicorn's line again, for a terminal


def configure_logging(level: str) -> None:
    """Send every logger of this process to stderr as NDJSON. Call once, from an entry point.

    `extra={...}` becomes top-level fields; use `job_id`, `step_id`, `correlation_id`,
    `item_index` and `code` for what they name.
    """
    closed = sys.stderr is None  # it was, when the process began: its number may be a socket now
    handler = logging.NullHandler() if closed else LogWriter(sys.stderr.fileno())
    handler.setFormatter(_Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These two say at INFO what our own lines say better.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
