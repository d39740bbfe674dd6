"""schemathesis over the exported document, against the live API: PostgreSQL, broker, store.

All checks, all operations, all phases (examples, coverage, fuzzing, stateful links). Jobs end soon
after they are created, played by a thread, so that the progress stream is an operation like any
other: it closes when its job has ended.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from tests.support.api_harness import Api, running_api

from shared.object_store import open_store

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/openapi/openapi.v1.json"
CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "k-shop"
# Half of the time goes into cases that cover every keyword of the document, whatever this says.
MAX_EXAMPLES = "3"
# A fixed one: what is merged today must not fail tomorrow by chance.
SEED = "20260131"


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    keys = f"shop:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with running_api(stack_environment, api_keys=keys) as running:
        anyio.run(make_bucket, running)
        running.install()
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running


async def make_bucket(api: Api) -> None:
    store = open_store(api.settings)
    try:
        await store.ensure_bucket()
    finally:
        store.close()


@contextmanager
def a_worker(api: Api) -> Iterator[None]:
    """Ends every job that is queued, the first ones with a picture."""
    over = threading.Event()
    failures: list[Exception] = []

    def work() -> None:
        try:
            play()
        except Exception as error:  # without a worker every stream would wait for its time-out
            failures.append(error)
            api.server.should_exit = True

    def play() -> None:
        pictures = 3
        while not over.wait(0.1):
            for (job,) in api.sql(
                "UPDATE steps SET state = 'running', lease_owner = gen_random_uuid(), "
                "lease_expires_at = now() + '1 hour' WHERE state = 'queued' RETURNING job_id::text"
            ):
                if pictures:
                    api.artifact(job, 0, b"picture")
                    pictures -= 1
                api.progress(job, 0.5)
                api.finish(job)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures


@pytest.mark.timeout(300)
def test_the_api_does_what_its_document_says(api: Api, tmp_path: Path) -> None:
    done = run(api, tmp_path, str(DOCUMENT))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    operations = sum(map(len, json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].values()))
    assert f"Tested: {operations}" in done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert re.search(rf"^  ✅ {phase}$", done.stdout, flags=re.MULTILINE), phase
    # A phase without links to follow passes as well.
    (covered,) = re.findall(r"API Links: +(\d+) covered", done.stdout)
    assert int(covered) >= 10, done.stdout[-6000:]
    assert api.sql("SELECT count(*) > 0 FROM jobs WHERE status = 'succeeded'") == [(True,)]


def test_a_document_that_says_too_little_is_found_out(api: Api, tmp_path: Path) -> None:
    """The test above can fail."""
    wrong = DOCUMENT.read_text(encoding="utf-8").replace('"404"', '"418"')
    (tmp_path / "wrong.json").write_text(wrong, encoding="utf-8")
    done = run(
        api,
        tmp_path,
        "wrong.json",
        "--phases=fuzzing",
        "--include-name=GET /v1/models/{model_id}",
    )
    assert done.returncode == 1
    assert "Undocumented status code" in done.stdout, done.stdout


def run(api: Api, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run"]
    options = [
        f"--url={api.base}",
        f"--header=Authorization: Bearer {KEY}",
        f"--max-examples={MAX_EXAMPLES}",
        f"--seed={SEED}",
        "--generation-database=none",
        "--request-timeout=20",
        "--output-truncate=false",
        "--no-color",
    ]
    with a_worker(api):
        return subprocess.run(
            [*command, *options, *arguments], cwd=folder, capture_output=True, text=True
        )
