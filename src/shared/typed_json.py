"""JSON of another process as a type that its reader can rely on.

A reader describes what it reads as a `TypedDict`, and `typed` proves a value to be one: after it,
no access to a described field can fail. Fields that are not described are left as they are, so
that a newer sender may add some. Described are text, numbers, lists, objects, `X | None`, `Literal`
and `Annotated[X, Rule]`; anything else in a shape is a mistake of ours.

Not pydantic: the Python client starts without it, and it would copy.
"""

import functools
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

T = TypeVar("T")

# Ours has ten. An object of some hundred levels can be read, and not be written with indents.
MOST_LEVELS = 64
# What a database and other languages hold; sums and products of such numbers stay finite.
_BOUND = 2**63
_SHOWN_CHARACTERS = 40


class Mismatch(ValueError):
    """A value is not of the shape that it should have; the message says where and how."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What else holds for a value: `name` is a noun, as in "should be a time"."""

    name: str
    holds: Callable[[Any], bool]


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


Moment = Annotated[str, Rule("a time with its zone", _is_moment)]
Share = Annotated[float, Rule("a number from 0 to 1", lambda number: 0 <= number <= 1)]


def parse(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `Mismatch` for what is none, or nested too deep."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Mismatch("not JSON") from None
    if is_deeper(value, MOST_LEVELS):
        raise Mismatch(f"nested more than {MOST_LEVELS} levels deep")
    return value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether `value` holds containers inside one another beyond `levels`."""
    row = [value]
    for _ in range(levels):
        row = [one for each in row if isinstance(each, dict | list) for one in _inside(each)]
        if not row:
            return False
    return True


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value
    return [each for each in inner if isinstance(each, dict | list)]


def typed(shape: type[T], value: object) -> T:
    """`value` itself, proven to be of `shape`. Raises `Mismatch`."""
    _check(shape, value, "")
    return cast("T", value)


def _check(shape: Any, value: object, path: str) -> None:
    origin, arguments = get_origin(shape), get_args(shape)
    if origin is Annotated:
        _check(arguments[0], value, path)
        for rule in arguments[1:]:
            if not rule.holds(value):
                raise _mismatch(path, rule.name, value)
    elif origin in (Union, types.UnionType):
        if value is not None:
            (one,) = (each for each in arguments if each is not type(None))
            _check(one, value, path)
    elif origin is Literal:
        if value not in arguments:
            raise _mismatch(path, " or ".join(map(str, arguments)), value)
    elif origin is list:
        for index, each in enumerate(_container(list, value, path)):
            _check(arguments[0], each, f"{path}[{index}]")
    elif origin is dict:
        for name, each in _container(dict, value, path).items():
            _check(arguments[1], each, f"{path}.{name}")
    elif is_typeddict(shape):
        _check_fields(shape, _container(dict, value, path), path)
    elif shape is not Any and not _PLAIN[shape](value):
        raise _mismatch(path, _NAMES[shape], value)


def _check_fields(shape: Any, value: Mapping[str, object], path: str) -> None:
    for name, (field, is_required) in _fields(shape).items():
        if name in value:
            _check(field, value[name], f"{path}.{name}")
        elif is_required:
            raise Mismatch(f"{_shown(f'{path}.{name}')} is missing")


@functools.cache
def _fields(shape: Any) -> Mapping[str, tuple[Any, bool]]:
    """Type of each field, and whether it must be there."""
    fields = {}
    for name, hint in get_type_hints(shape, include_extras=True).items():
        is_required = get_origin(hint) is not NotRequired
        marked = get_origin(hint) in (NotRequired, Required)
        fields[name] = (get_args(hint)[0] if marked else hint, is_required)
    return fields


def _container(kind: type[T], value: object, path: str) -> T:
    if not isinstance(value, kind):
        raise _mismatch(path, _NAMES[kind], value)
    return value


def _is_number(value: object) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return _is_integer(value)


def _is_integer(value: object) -> bool:
    return type(value) is int and -_BOUND <= value < _BOUND  # a bool is another thing


_PLAIN: dict[Any, Callable[[object], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    int: _is_integer,
    float: _is_number,
}
_NAMES: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number below 2^63",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def _mismatch(path: str, wanted: str, value: object) -> Mismatch:
    return Mismatch(f"{_shown(path) or 'it'} should be {wanted}, and is {_words(value)}")


def _words(value: object) -> str:
    """What stands there, short; of a container its kind."""
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return _cut(json.dumps(value))


def _shown(path: str) -> str:
    return _cut(path.removeprefix("."))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
