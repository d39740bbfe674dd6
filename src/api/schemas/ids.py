"""Ids in paths, in one spelling only: the one that we hand out is the one that we accept."""

from uuid import UUID

from shared.errors import NotFound


def parse_id(text: str) -> UUID | None:
    """The UUID, or None for anything but the lower-case form with hyphens."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None


def no_such_job() -> NotFound:
    return NotFound("there is no such job")


def no_such_file() -> NotFound:
    return NotFound("there is no such file of the page")


def no_such_input() -> NotFound:
    return NotFound("there is no such input; POST /v1/inputs sends a picture")


def no_such_letter() -> NotFound:
    return NotFound("there is no such dead letter; GET /v1/dead-letters lists what there is")


def no_such_model() -> NotFound:
    return NotFound("there is no such model; GET /v1/models lists what there is")
