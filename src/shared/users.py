"""What each user may have: weight, priorities and bounds, by the name of the user's key.

`DF_USERS` is the one place for them. `*` stands for every user that it does not name.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from shared.states import Priority

EVERYONE = "*"
# The user of all jobs where there are no keys.
DEFAULT_USER = "default"
# Seconds are divided by it.
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
_DIGITS = 10  # of a number that PostgreSQL's integers can be too small for
_NAME = re.compile(r"[a-z0-9_-]{1,64}|\*")


@dataclass(frozen=True, kw_only=True, slots=True)
class UserPolicy:
    """A bound that is None is the one of its own setting, for everyone; 0 is none."""

    name: str = EVERYONE
    weight: float = 1.0  # who has 2 gets twice the seconds of who has 1
    priorities: tuple[Priority, ...] = tuple(Priority)
    unfinished: int | None = None
    per_minute: int | None = None
    streams: int | None = None  # of one process

    @property
    def default_priority(self) -> Priority:
        """Of a job that names none: `normal`, or else the lowest that the user may use."""
        return Priority.NORMAL if Priority.NORMAL in self.priorities else self.priorities[-1]


def parse_users(text: str) -> tuple[UserPolicy, ...]:
    """`name key=value key=value, …`. Raises `ValueError`, which says what is accepted."""
    users = tuple(_user(part) for part in text.split(",") if part.strip())
    names = [user.name for user in users]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is there twice")
    return users


def _user(part: str) -> UserPolicy:
    name, *facts = part.split()
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a key; an entry is like: ada weight=2 priorities=high+normal"
        )
    values: dict[str, Any] = {}
    for fact in facts:
        key, _, value = fact.partition("=")
        if key not in _READ:
            raise ValueError(f"{name}: {key!r} is not known; there are {', '.join(_READ)}")
        if key in values:
            raise ValueError(f"{name}: {key} is there twice")
        try:
            values[key] = _READ[key](value)
        except ValueError:
            raise ValueError(f"{name}: {key}={value} must be {_MUST_BE[key]}") from None
    return UserPolicy(name=name, **values)


def _weight(text: str) -> float:
    weight = float(text)
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:  # NaN is between nothing
        raise ValueError
    return weight


def _bound(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS):
        raise ValueError
    return int(text)


def _priorities(text: str) -> tuple[Priority, ...]:
    given = {Priority(word) for word in text.split("+")}
    return tuple(each for each in Priority if each in given)


_READ: dict[str, Callable[[str], Any]] = {
    "weight": _weight,
    "priorities": _priorities,
    "unfinished": _bound,
    "per_minute": _bound,
    "streams": _bound,
}
_ANY_PRIORITIES = f"one or several of {', '.join(Priority)}, joined by +"
_MUST_BE = {
    "weight": f"a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}",
    "priorities": _ANY_PRIORITIES,
    **dict.fromkeys(("unfinished", "per_minute", "streams"), "a whole number; 0 is no bound"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Serves:
    """What a worker is kept for: these priorities and these users; nothing named is all of them."""

    priorities: tuple[Priority, ...] = ()
    users: tuple[str, ...] = ()

    def accepts(self, *, user: str, priority: str) -> bool:
        """Whether the worker takes such a job's steps."""
        return (not self.priorities or priority in self.priorities) and (
            not self.users or user in self.users
        )


def parse_serves(text: str) -> Serves:
    """`priority:high,user:ada`. Raises `ValueError`."""
    priorities, users = list[Priority](), list[str]()
    for part in (each.strip() for each in text.split(",") if each.strip()):
        kind, _, value = part.partition(":")
        if kind == "priority" and value in set(Priority):
            priorities.append(Priority(value))
        elif kind == "user" and _NAME.fullmatch(value) and value != EVERYONE:
            users.append(value)
        else:
            raise ValueError(
                f"{part!r} must be priority:NAME, one of {', '.join(Priority)}, or user:NAME"
            )
    return Serves(priorities=tuple(priorities), users=tuple(users))


def check_known(setting: str, users: Collection[str], keys: Collection[str]) -> None:
    """Raise `ValueError` for a user that no key belongs to. `keys` are the names of all keys."""
    known = keys or {DEFAULT_USER}
    for name in users:
        if name not in known:
            raise ValueError(
                f"{setting}: {name!r} is the name of no key in DF_API_KEYS; there are: "
                f"{', '.join(sorted(known))}"
            )
