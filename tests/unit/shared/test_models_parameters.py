"""Parameters against a model's schema: one check for what is imported and what is requested."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shared.models.parameters import find_problems

SIDE = {"type": "integer", "minimum": 16, "maximum": 256, "default": 64, "multipleOf": 8}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "width": SIDE,
        "height": SIDE,
        "guidance": {"type": "number", "minimum": 0, "maximum": 50.0},
        "negative_prompt": {"type": "string", "maxLength": 3},
        "scheduler": {"enum": [None, "euler"]},
    },
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 8, "must be from 16 to 256"),
        ("width", 264, "must be from 16 to 256"),
        ("width", 65, "must be a multiple of 8"),
        ("width", 64.0, "must be of type integer"),
        ("width", True, "must be of type integer"),
        ("width", None, "must be of type integer"),
        ("guidance", 50.5, "must be from 0 to 50.0"),
        ("guidance", math.nan, "must be of type number"),
        ("guidance", math.inf, "must be of type number"),
        ("negative_prompt", "1234", "must have at most 3 characters"),
        ("negative_prompt", 1, "must be of type string"),
        ("negative_prompt", [], "must be of type string"),
        ("scheduler", "magic", "must be one of: null, euler"),
        ("scheduler", {}, "must be one of: null, euler"),
    ],
)
def test_a_problem_says_what_would_be_accepted(field: str, value: object, message: str) -> None:
    (problem,) = find_problems(SCHEMA, {field: value})
    assert (problem.field, problem.message) == (field, message)


def test_problems_come_sorted_with_the_rule_and_its_limit() -> None:
    problems = find_problems(SCHEMA, {"width": 265, "height": 65, "guidance": 7})
    assert [(one.field, one.rule, one.limit) for one in problems] == [
        ("height", "multipleOf", 8),
        ("width", "maximum", 256),
        ("width", "multipleOf", 8),
    ]


@pytest.mark.parametrize("rule", [{"maxLength": 0}, {"maximum": 0.0}])
def test_a_bound_of_nothing_is_a_parameter_without_use(rule: dict[str, Any]) -> None:
    schema = {"properties": {"x": rule}}
    (problem,) = find_problems(schema, {"x": "a" if "maxLength" in rule else 1})
    assert problem.message == "this model has no use for it; leave it out"


def test_a_schema_of_an_earlier_release_has_the_words_of_the_validator() -> None:
    assert find_problems({"type": "object"}, {"width": 1}) == []
    schema = {"properties": {"width": {"maximum": 8}, "note": {"pattern": "^a"}}}
    assert [one.message for one in find_problems(schema, {"width": 9, "note": "b"})] == [
        "'b' does not match '^a'",
        "9 is greater than the maximum of 8",
    ]


def test_a_parameter_with_one_value_alone_says_which() -> None:
    schema = {"properties": {"width": {"type": "integer", "minimum": 64, "maximum": 64}}}
    for width in (56, 72):
        (problem,) = find_problems(schema, {"width": width})
        assert problem.message == "this model takes 64 alone"
