"""Answers of the API as objects. What an object has no field for is in its `data`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Seeds are numbers, formats short words: what names another folder is neither.
_FILE_PART = re.compile(r"[A-Za-z0-9]{1,20}")
# As the API sends it: `code`, `message`, `payload`, and `seq` unless it is a `queue` message.
Event = dict[str, Any]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as it was when it was read. `data` is the API's whole answer."""

    id: str
    status: Status
    error: Mapping[str, Any] | None
    data: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Job:
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
    def of(cls, data: Mapping[str, Any]) -> Picture:
        own = {name: data[name] for name in cls.__dataclass_fields__ if name != "data"}
        return cls(**own, data=data)

    @property
    def file_name(self) -> str:
        """Raises `ValueError` for an answer that would name another folder."""
        return f"{file_part(self.item_index)}_{file_part(self.seed)}.{file_part(self.format)}"


def file_part(value: object) -> str:
    """What an answer says of a picture, as part of a file's name. Raises `ValueError`."""
    if not _FILE_PART.fullmatch(str(value)):
        raise ValueError(f"an answer has {str(value)[:40]!r} where a seed or a format stands")
    return str(value)


def results(artifacts: object) -> list[Picture]:
    """Of each item the picture of the last step that finished it; the API lists them by step.

    Raises `ValueError` for an answer that is no list of pictures.
    """
    return [Picture.of(each) for each in last_of_items(artifacts)]


def last_of_items(artifacts: object) -> list[Mapping[str, Any]]:
    """The same as the API answers them. Raises `ValueError`."""
    if not isinstance(artifacts, list) or not all(map(_has_number, artifacts)):
        raise ValueError("an answer has no pictures with numbers where those of a job stand")
    last = {each["item_index"]: each for each in artifacts}
    return [last[index] for index in sorted(last)]


def _has_number(artifact: object) -> bool:
    return isinstance(artifact, dict) and type(artifact["item_index"]) is int
