"""What the shell offers after a Tab: job ids and models of the API, if it answers at once.

A Tab must never print an error or wait: without an API there is nothing to offer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from cli.client.connect import connect
from cli.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.client.http import Client

T = TypeVar("T")

# A person waits for the Tab.
_TIMEOUT_S = 1.0
_JOBS = 20
Offers = list[tuple[str, str]]  # what is completed to, and what the shell shows beside it


# typer keeps the offers that begin with what is typed already.
def job_ids() -> Offers:
    """The newest jobs."""
    from dreamforge_client.answers import JobPage

    page = _ask(lambda client: client.get(JobPage, "/v1/jobs", limit=_JOBS))
    jobs = page["jobs"] if page else []
    return [(job["id"], f"{job['status']}, {job.get('created_at')}") for job in jobs]


def models() -> Offers:
    """Models by name and version."""
    listing = _ask(lambda client: client.models())
    found = listing["models"] if listing else []
    return [(f"{model['name']}@{model['version']}", model["kind"]) for model in found]


def _ask(question: Callable[[Client], T]) -> T | None:
    """The API's answer, or None."""
    try:
        with connect() as client:
            client.http.timeout = _TIMEOUT_S
            return question(client)
    except Failure:
        return None
