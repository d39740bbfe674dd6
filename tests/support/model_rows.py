"""Rows of the registry, without a database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from shared.db.models import Model

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model_row(**changes: Any) -> Model:
    """An enabled model that generates, with an id of its own."""
    facts: dict[str, Any] = {
        "id": uuid4(),
        "name": "apple",
        "version": "1",
        "kind": "sd",
        "enabled": True,
        "checkpoint_sha256": "0" * 64,
        "descriptor": {},
        "parameters_schema": {},
        "capabilities": ["generate"],
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Model(**(facts | changes))
