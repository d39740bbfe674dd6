"""JSON that no release of ours writes, for each column that holds some.

PostgreSQL holds a column to be JSON and no more, so people and older tools can write any of these.
"""

from __future__ import annotations

from typing import Any

ANYTHING = (
    "null",
    "7",
    '"x"',
    "[1]",
    "{}",
    f'{{"width": {"9" * 5000}, "progress": {"9" * 5000}}}',
    '{"a":' * 300 + "1" + "}" * 300,
    '{"a":' * 2000 + "1" + "}" * 2000,
)

_ERRORS = ('{"code": 7, "message": [], "details": []}', '{"details": {"last_error": []}}')
_PARAMETERS = (
    '{"width": "x", "steps": "1e5", "count": [], "height": "inf"}',
    '{"width": 1e300, "height": 1e300, "steps": 1e-400, "count": -1}',
    '{"width": true}',
    '{"loras": 7}',
    '{"loras": [7]}',
    '{"loras": [{"id": "x"}]}',
)
_EVENTS = (
    '{"progress": "x", "stage": 7}',
    '{"progress": "nan", "item_index": "x", "item_progress": "y"}',
    '{"progress": 1e300, "item_index": 1e20, "item_progress": 1e-400}',
    '{"progress": true, "item_index": true, "item_progress": true}',
    '{"progress": {}, "item_index": {}, "item_progress": {}, "stage": {}}',
    '{"progress": null, "item_index": 0.5, "item_progress": "1e400", "stage": []}',
)
_WEBHOOKS = (
    '{"url": 7, "events": 7}',
    '{"url": "http://[", "events": ["start", "artifact", "end"]}',
    '{"url": "nowhere", "events": ["end"]}',
    '{"events": {}}',
)
_INPUTS = (
    '[{"id": "x", "role": 7}]',
    '[{"id": []}]',
    "[null]",
    '[{"role": "image", "id": "00000000-0000-0000-0000-000000000000"}]',
)
_DESCRIPTORS = (
    '{"family": [], "scale": "x", "parts": []}',
    '{"parts": {"a": 1}}',
    '{"parts": {"a": {"numbers": -1, "largest": 1e300}}}',
    '{"default_preset": 7}',
)
_SCHEMAS = (
    '{"properties": []}',
    '{"properties": {"width": 7, "steps": []}}',
    '{"type": 7}',
    '{"$ref": "#"}',
    '{"$ref": "http://127.0.0.1:9/"}',
    '{"properties": {"width": {"multipleOf": 0, "default": "x"}}}',
    '{"properties": {"steps": {"minimum": "a", "pattern": "("}}}',
    '{"properties": {"width": {"default": "x"}, "guidance": {"default": []}}}',
)
_SLOTS = (
    '[{"id": 1}]',
    '[{"id": "0", "class": "cpu", "device": "cpu", "capacity_bytes": "many", "state": 7}]',
    '[{"id": "0", "class": "cpu", "device": "cpu", "capacity_bytes": 5, "state": "free", '
    '"holders": []}]',
    '[{"id": "0", "class": "cpu", "device": "cpu", "capacity_bytes": 5, "state": "free", '
    '"job_id": "x"}]',
)

COLUMNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("jobs", "error"): ANYTHING + _ERRORS,
    ("jobs", "request"): ANYTHING,
    ("jobs", "tags"): ANYTHING,
    ("jobs", "webhook"): ANYTHING + _WEBHOOKS,
    ("steps", "params"): ANYTHING + _PARAMETERS,
    ("steps", "preset"): (*ANYTHING, '{"name": [], "version": {}, "vram_factor": "x"}'),
    ("steps", "inputs"): ANYTHING + _INPUTS,
    ("steps", "error"): ANYTHING + _ERRORS,
    ("events", "payload"): ANYTHING + _EVENTS,
    ("deliveries", "payload"): ANYTHING,
    ("models", "descriptor"): ANYTHING + _DESCRIPTORS,
    ("models", "parameters_schema"): ANYTHING + _SCHEMAS,
    ("models", "capabilities"): (*ANYTHING, '["generate", 7]', '{"generate": 1}', '["upscale"]'),
    ("workers", "queues"): (*ANYTHING, '[[], "default"]'),
    ("workers", "slots"): ANYTHING + _SLOTS,
    ("workers", "models"): (*ANYTHING, '[{"id": 1}]', '[{"id": "x", "checkpoint_sha256": "x"}]'),
    ("workers", "serves"): (*ANYTHING, '{"priorities": 7}', '{"priorities": ["urgent"]}'),
}


def cases(*tables: str) -> list[Any]:
    """(table, column, value) of these tables."""
    return [
        (table, column, value)
        for (table, column), values in COLUMNS.items()
        if table in tables
        for value in values
    ]
