"""The check of parameters against a model's schema, for a descriptor's defaults and for a request.

The schemas are those that `shared.models.descriptor` writes. A model's row may be of an earlier
release, so nothing but JSON Schema 2020-12 is taken for granted.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterProblem:
    """One parameter that a model does not accept; `message` says what it would accept."""

    field: str
    message: str
    rule: str  # the keyword of the schema that the value breaks, and what that keyword says
    limit: Any


class UnreadableSchema(ValueError):
    """A value is no JSON Schema that parameters can be checked with; the message says why."""


def _is_integer(_checker: object, value: object) -> bool:
    """JSON Schema takes 2.0 for an integer; a runner does not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_checker: object, value: object) -> bool:
    """NaN is below no maximum and above no minimum, so the bounds would let it pass."""
    return _is_integer(_checker, value) or (isinstance(value, float) and math.isfinite(value))


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `UnreadableSchema` for one that `find_problems` could not go through."""
    _check_text(json.dumps(schema, sort_keys=True))


@functools.lru_cache(maxsize=256)  # some milliseconds, and the same for every job of a model
def _check_text(schema: str) -> None:
    """References are refused: ours have none, and theirs may lead in a circle, or to a server."""
    if '"$ref"' in schema or '"$dynamicRef"' in schema or '"pattern' in schema:
        raise UnreadableSchema("parameters_schema has references or patterns")
    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "it"
        raise UnreadableSchema(f"parameters_schema is no JSON Schema: {where}") from None


def find_problems(schema: Mapping[str, Any], values: Mapping[str, Any]) -> list[ParameterProblem]:
    """What is wrong with `values`, sorted by field; empty where the model accepts all of them."""
    problems = [
        ParameterProblem(
            field=".".join(map(str, error.path)),
            message=_message(error),
            rule=str(error.validator),
            limit=error.validator_value,
        )
        for error in _Validator(schema).iter_errors(values)
    ]
    return sorted(problems, key=lambda problem: problem.field)


def _message(error: ValidationError) -> str:
    rule, limit = error.validator, cast("Any", error.validator_value)
    bounds = cast("Mapping[str, Any]", error.schema)
    match rule:
        case "maxLength" if "then" in error.schema_path:
            return "it has no effect with so little guidance; leave it out, or raise the guidance"
        case "maxLength" | "maximum" if limit == 0:
            return "this model has no use for it; leave it out"
        case "minimum" | "maximum" if bounds.get("minimum") == bounds.get("maximum"):
            return f"this model takes {limit} alone"
        case "minimum" | "maximum" if {"minimum", "maximum"} <= bounds.keys():
            return f"must be from {bounds['minimum']} to {bounds['maximum']}"
        case "enum":
            names = ("null" if name is None else str(name) for name in limit)
            return f"must be one of: {', '.join(names)}"
        case "maxLength":
            return f"must have at most {limit} characters"
        case "maxItems":
            return f"at most {limit} for this model"
        case "multipleOf":
            return f"must be a multiple of {limit}"
        case "type":
            return f"must be of type {limit}"
        case _:
            return error.message
