"""Answers of the API as objects. What an object has no field for is in its `data`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dreamforge_client import answers
from dreamforge_client.answers import Status

# As the API sends it: `code`, `message`, `payload`, and `seq` unless it is a `queue` message.
Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as it was when it was read. `data` is the API's whole answer."""

    id: str
    status: Status
    error: Mapping[str, Any] | None
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, data: answers.Job) -> Job:
        return cls(id=data["id"], status=data["status"], error=data.get("error"), data=data)

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A finished picture. `url` needs no key and expires; `data` is the API's whole answer."""

    item_index: int
    seed: int
    format: str
    width: int
    height: int
    sha256: str
    url: str = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, data: answers.Artifact) -> Picture:
        return cls(
            item_index=data["item_index"],
            seed=data["seed"],
            format=data["format"],
            width=data["width"],
            height=data["height"],
            sha256=data["sha256"],
            url=data["url"],
            data=data,
        )

    @property
    def file_name(self) -> str:
        return f"{self.item_index}_{self.seed}.{self.format}"


def last_of_items(artifacts: Iterable[answers.Artifact]) -> list[answers.Artifact]:
    """Of each item the picture of the last step that finished it; the API lists them by step."""
    last = {each["item_index"]: each for each in artifacts}
    return [last[index] for index in sorted(last)]
