"""Where a job's time went, read from the timestamps of its events.

A mark is the moment at which a stage ended. Progress is coalesced to about two events a second, so
a stage may end unseen: then it is shown together with the next one instead of being guessed.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

# stage, and the mark that ends it, in order
_FIRST_STEP = (
    ("queue", "claimed"),
    ("start", "started"),
    ("load", "loaded"),
    ("sampling", "sampled"),
    ("decode and upload", "written"),
)
_SECOND_STEP = (("verify", "verified"), ("upscale", "enlarged"))
_END = (("verify and verdict", "finished"),)


def stage_times(events: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """(stage, seconds) in order, with `total` at the end; empty when the job has not begun."""
    marks = _marks(events)
    if "created" not in marks:
        return []
    stages, names, since = [], [], marks["created"]
    for name, mark in _FIRST_STEP + (_SECOND_STEP if "enlarged" in marks else ()) + _END:
        names.append(name)
        if mark in marks:
            stages.append((" + ".join(names), (marks[mark] - since).total_seconds()))
            names, since = [], marks[mark]
    return [*stages, ("total", (since - marks["created"]).total_seconds())]


def _marks(events: Iterable[Mapping[str, Any]]) -> dict[str, datetime]:
    marks: dict[str, datetime] = {}
    for event in events:
        if "ts" not in event:  # a preview
            continue
        at = datetime.fromisoformat(event["ts"])
        stage = (event.get("payload") or {}).get("stage")
        match event["code"]:
            case "job.created":
                marks["created"] = at
            case "step.claimed":
                marks.setdefault("claimed", at)
            case "step.start":
                marks.setdefault("started", at)
            # Progress is written late: after the artifact it is about what was before it.
            case "progress" if stage == "sampling" and "written" not in marks:
                marks.setdefault("loaded", at)
            case "progress" if stage == "decode" and "written" not in marks:
                marks["sampled"] = at
            case "artifact.written" if "verified" in marks:
                marks["enlarged"] = at
            case "artifact.written":
                marks["written"] = at
            case "step.finish":
                marks.setdefault("verified", at)
            case "job.finish":
                marks["finished"] = at
    return marks
