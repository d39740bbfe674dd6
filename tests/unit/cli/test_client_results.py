"""File names from prompts, and failures as lines."""

import pytest

from cli.client.results import slug
from cli.errors import JOB_FAILED, UNREACHABLE, USAGE, Failure, Refusal
from shared import errors
from shared.errors import DreamForgeError


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red apple", "a-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein Äpfel: rot & süß!", "ein-äpfel-rot-süß"),
        ("???", "picture"),
        ("x" * 500, "x" * 60),
    ],
)
def test_a_prompt_becomes_a_plain_file_name(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_an_envelope_becomes_its_message_and_what_that_does_not_say() -> None:
    width = {"field": "width", "message": "must be a multiple of 8", "multipleOf": 8}
    count = {"field": "count", "message": "must be positive", "minimum": 1}
    refused = Refusal(
        {
            "code": "invalid_input",
            "message": "width: must be a multiple of 8 (and 1 more)",
            "details": {"errors": [width, count]},
            "correlation_id": "c",
        }
    )
    assert refused.message == (
        "width: must be a multiple of 8 (and 1 more)\n  count: must be positive"
    )
    assert "model get" in refused.hint
    assert refused.exit_code == USAGE


def test_other_details_are_a_line_each() -> None:
    refused = Refusal({"code": "conflict", "message": "used", "details": {"job_id": "j", "n": [1]}})
    assert refused.message == "used\n  job_id: j\n  n: 1"


def test_a_bug_of_ours_says_what_to_report_and_that_it_was_not_the_request() -> None:
    refused = Refusal({"code": "internal", "message": "wrong", "correlation_id": "c1"})
    assert refused.message == "wrong\n  correlation id: c1"
    assert "report" in refused.hint
    assert refused.exit_code == UNREACHABLE


def test_every_error_of_a_request_has_a_hint() -> None:
    # A wrong method is nothing that a command could send.
    declared = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.code for kind in declared if issubclass(kind, DreamForgeError)}
    codes.remove("method_not_allowed")
    assert {code for code in codes if not Refusal({"code": code}).hint} == set()


def test_a_part_that_is_away_counts_as_unreachable() -> None:
    refused = Refusal({"code": "infra_unavailable", "message": "PostgreSQL cannot be reached"})
    assert refused.exit_code == UNREACHABLE
    assert "doctor" in refused.hint


def test_exit_codes_are_distinct() -> None:
    assert len({JOB_FAILED, USAGE, UNREACHABLE, 0}) == 4
    assert Failure("x").exit_code == USAGE
