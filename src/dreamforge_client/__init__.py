"""The Python client of Dream Forge: create jobs, wait for them, follow them, save their pictures.

    from dreamforge_client import Client

    with Client("http://127.0.0.1:8001") as client:
        job = client.result(client.create("a red apple", seed=42))
        print(client.save(job))

`AsyncClient` has the same methods for asyncio and trio. Both resume by themselves what a restart of
the API, or a proxy, cuts.
"""

from dreamforge_client.async_client import AsyncClient
from dreamforge_client.client import Client
from dreamforge_client.errors import (
    ClientError,
    JobUnsuccessful,
    Refused,
    Unexpected,
    Unreachable,
)
from dreamforge_client.shapes import Event, Job, Picture

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Event",
    "Job",
    "JobUnsuccessful",
    "Picture",
    "Refused",
    "Unexpected",
    "Unreachable",
]
