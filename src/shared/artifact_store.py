"""Where a worker puts finished images: the seam, and the name of each object.

`shared.object_store` is the real one. It stays out of here, so that the supervisor's core runs
where no client of a store is installed.
"""

from typing import Protocol

from shared.protocol.messages import Artifact
from shared.step_store import Claim


class ArtifactStore(Protocol):
    """Where images go, and come from for the next step. Raises `InfraUnavailable`."""

    async def put(self, key: str, data: bytes, *, content_type: str, sha256: str) -> None:
        """Store and verify an object."""

    async def get(self, key: str, *, at_most_bytes: int) -> bytes | None:
        """The object's bytes, or the first so many of them; None when there is no such object."""

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    async def probe_write(self) -> None:
        """Store an object of no use, and remove it: a full store still answers."""


def object_key(claim: Claim, artifact: Artifact, *, finished_ms: int) -> str:
    """`dreamforge/{user}/jobs/{job}/{step}/{ts}_{index}_{w}x{h}_{seed}.{ext}` (PRODUCT §4)."""
    name = f"{finished_ms}_{artifact.item_index}_{artifact.width}x{artifact.height}_{artifact.seed}"
    return f"dreamforge/{claim.user}/jobs/{claim.job_id}/{claim.name}/{name}.{artifact.format}"
