"""What the shell offers after a Tab: job ids and models of the API, if it answers at once.

A Tab must never print an error or wait: without an API there is nothing to offer.
"""

from __future__ import annotations

from typing import Any

from cli.client.connect import connect
from cli.errors import Failure

# A person waits for the Tab.
_TIMEOUT_S = 1.0
_JOBS = 20
Offers = list[tuple[str, str]]  # what is completed to, and what the shell shows beside it


def job_ids(incomplete: str) -> Offers:
    """The newest jobs."""
    page = _get("/v1/jobs", limit=_JOBS)
    offers = [(job["id"], f"{job['status']}, {job['created_at']}") for job in page.get("jobs", [])]
    return _fitting(offers, incomplete)


def models(incomplete: str) -> Offers:
    """Models by name and version."""
    listing = _get("/v1/models").get("models", [])
    return _fitting([(f"{m['name']}@{m['version']}", m["kind"]) for m in listing], incomplete)


def _fitting(offers: Offers, incomplete: str) -> Offers:
    return [offer for offer in offers if offer[0].startswith(incomplete)]


def _get(path: str, **params: Any) -> dict[str, Any]:
    try:
        with connect() as client:
            client.http.timeout = _TIMEOUT_S
            answer: dict[str, Any] = client.get(path, **params)
    except Failure:
        return {}
    return answer
