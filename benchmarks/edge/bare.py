"""What the api is compared with: FastAPI, a pydantic model, one INSERT in a transaction.

The same server, the same driver and the same tables as the api's own, and nothing else: no key, no
plan, no check, no step, no event, no limit. `uvicorn benchmarks.edge.bare:app` with `BARE_URL`.
"""

import json
import os
from typing import Literal
from uuid import UUID, uuid4

from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

app = FastAPI()
engine = create_async_engine(os.environ["BARE_URL"], pool_size=5, max_overflow=5)
INSERT = text(
    "INSERT INTO jobs (id, type, status, request, count, correlation_id) "
    "VALUES (:id, :type, 'queued', CAST(:request AS jsonb), 1, :correlation_id)"
)


class Request(BaseModel):
    """The fields that the benchmark sends."""

    type: Literal["generate"]
    prompt: str = Field(min_length=1, max_length=4096)


class Created(BaseModel):
    """The answer."""

    id: UUID
    type: str


@app.post("/v1/jobs", status_code=202)
async def create(body: Request) -> Created:
    """Insert one row."""
    created = Created(id=uuid4(), type=body.type)
    async with engine.begin() as connection:
        await connection.execute(
            INSERT,
            {
                "id": created.id,
                "type": created.type,
                "request": json.dumps(body.model_dump()),
                "correlation_id": uuid4().hex,
            },
        )
    return created


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """The benchmark waits for this."""
    return {"status": "ready"}
