"""File names from prompts, and failures as lines."""

import pytest

from cli.failures import JOB_FAILED, UNREACHABLE, USAGE, Failure, Refused
from cli.outcome import slug


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


def test_an_envelope_becomes_its_message_and_details() -> None:
    refused = Refused(
        {
            "code": "invalid_input",
            "message": "the request is not valid",
            "details": {"errors": [{"field": "width", "limit": "a multiple of 8"}]},
            "correlation_id": "c",
        }
    )
    assert refused.message == (
        "the request is not valid\n  errors: field width, limit a multiple of 8"
    )
    assert refused.exit_code == USAGE


def test_a_part_that_is_away_counts_as_unreachable() -> None:
    refused = Refused({"code": "infra_unavailable", "message": "PostgreSQL cannot be reached"})
    assert refused.exit_code == UNREACHABLE
    assert "doctor" in refused.hint


def test_exit_codes_are_distinct() -> None:
    assert len({JOB_FAILED, USAGE, UNREACHABLE, 0}) == 4
    assert Failure("x").exit_code == USAGE
