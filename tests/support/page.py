"""What tests of the page share: waiting for a new API, work beside the browser, and pictures that
nobody has drawn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import png as png_
from tests.support.api_harness import Api, until
from tests.support.browser import Visitor

from shared.object_store import open_store
from shared.states import Reason, Status

PNG = "image/png"


def png(side: int) -> bytes:
    file = io.BytesIO()
    png_.from_array([[200, 60, 20] * side] * side, "RGB").write(file)
    return file.getvalue()


def upload(name: str, side: int) -> Any:
    """A picture as a file input takes it."""
    return {"name": name, "mimeType": PNG, "buffer": png(side)}


def wait_ready(api: Api, key: str = "") -> None:
    """Its first connections take seconds on a busy machine; the page would show a failure. It asks
    for several things at once, and so does this."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def answers(_: int) -> bool:
        return api.client.get("/v1/models", headers=headers).is_success

    with ThreadPoolExecutor(4) as threads:
        until(lambda: all(threads.map(answers, range(4))), "it is ready", timeout_s=240)


def apart(work: Callable[[], object]) -> None:
    """Run it in a thread of its own: Playwright's event loop has the one of the tests."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()


def draw(visitor: Visitor, prompt: str = "a red apple", **fields: Any) -> None:
    page = visitor.page
    page.get_by_label("What to draw").fill(prompt)
    if fields:
        page.get_by_text("More", exact=True).click()
    for name, value in fields.items():
        page.locator(f"#field-{name}").fill(str(value))
    page.get_by_role("button", name="Draw", exact=True).click()


def finish(api: Api, job: str) -> None:
    """End it with a picture that no worker has drawn."""

    def work() -> None:
        api.artifact(job, 0, png(64))
        api.finish(job)

    apart(work)


def finish_failed(api: Api, job: str) -> None:
    """End it as one that ran for too long."""
    error = {"code": "timeout", "message": "ran for longer than 0.01 s", "details": {}}
    apart(lambda: api.finish(job, Status.FAILED, Reason.TIMEOUT, error))


def gallery(api: Api, number: int) -> list[str]:
    """Ended jobs with a picture each, the oldest first; every other one has the tag n=1."""
    jobs = [api.create(prompt=f"number {n}", tags={"n": str(n % 2)}) for n in range(number)]
    data = png(16)
    sha256 = hashlib.sha256(data).hexdigest()

    async def upload_all() -> None:
        store = open_store(api.settings)
        try:
            async with anyio.create_task_group() as tasks:
                for job in jobs:
                    tasks.start_soon(partial(store.put, job, data, content_type=PNG, sha256=sha256))
        finally:
            store.close()

    apart(lambda: anyio.run(upload_all))
    ended = "reason = 'completed', finished_at = now()"
    api.sql(f"UPDATE steps SET state = 'succeeded', {ended} WHERE job_id = ANY(%s::uuid[])", jobs)
    api.sql(f"UPDATE jobs SET status = 'succeeded', {ended} WHERE id = ANY(%s::uuid[])", jobs)
    api.sql(
        "INSERT INTO artifacts (id, job_id, step_id, step, item_index, format, width, height, seed,"
        " s3_key, sha256, size_bytes) SELECT gen_random_uuid(), job_id, id, 'generate', 0, 'png',"
        " 16, 16, 7, job_id::text, %s, %s FROM steps WHERE job_id = ANY(%s::uuid[])",
        sha256,
        len(data),
        jobs,
    )
    return jobs
