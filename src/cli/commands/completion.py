"""What the shell offers after a Tab: job ids and models of the API, if it answers at once.

A Tab must never print an error or wait: without an API there is nothing to offer.
"""

from typing import Any

from cli.client.connect import connect
from cli.errors import Failure

# A person waits for the Tab.
_TIMEOUT_S = 1.0
_JOBS = 20
Offers = list[tuple[str, str]]  # what is completed to, and what the shell shows beside it


# typer keeps the offers that begin with what is typed already.
def job_ids() -> Offers:
    """The newest jobs."""
    page = _get("/v1/jobs", limit=_JOBS)
    return [(job["id"], f"{job['status']}, {job['created_at']}") for job in page.get("jobs", [])]


def models() -> Offers:
    """Models by name and version."""
    listing = _get("/v1/models").get("models", [])
    return [(f"{model['name']}@{model['version']}", model["kind"]) for model in listing]


def _get(path: str, **params: Any) -> dict[str, Any]:
    try:
        with connect() as client:
            client.http.timeout = _TIMEOUT_S
            answer: dict[str, Any] = client.get(path, **params)
    except Failure:
        return {}
    return answer
