"""What comes with a list of requirements, by the metadata of what is installed here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.support.deployment import PROJECT

GROUPS: dict[str, list[Any]] = PROJECT["dependency-groups"]


def listed(group: str) -> list[str]:
    """The requirements of a group, those of what it includes with them."""
    found: list[str] = []
    for entry in GROUPS[group]:
        found += listed(entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


def installed_with(requirements: list[str]) -> set[str]:
    """Names of everything that comes with these, by the metadata of what is installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            here = (canonicalize_name(wanted.name), extra)
            if here in found:
                continue
            found.add(here)
            for line in _requires(wanted.name):
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    waiting.append(needed)
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # torchvision: `scripts/setup` says why it is not here
        return []
