"""What is past its age goes, rows before objects; what is young, live or named stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.support.api_harness import Api, running_api
from tests.support.broken_pictures import sound
from tests.support.stored_objects import stored_keys

from cli.main import run
from shared import retention
from shared.db import retention as rows
from shared.db.engine import Database
from shared.errors import InfraUnavailable
from shared.object_store import ObjectStore, StoredObject, open_store
from shared.retention import Pruned, prune
from shared.states import Reason, Status
from shared.timings import TIMINGS

DAY_S = 24 * 3600.0


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        with_store(running, _empty)
        yield running


async def _empty(store: ObjectStore) -> None:
    await store.ensure_bucket()
    for key in await stored_keys(store):
        await store.delete(key)


def with_store(api: Api, work: Callable[[ObjectStore], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        store = open_store(api.settings)
        try:
            return await work(store)
        finally:
            store.close()

    return anyio.run(main)


class AgedStore:
    """The real store, whose objects are as old as a test says; it may fail after some deletes."""

    def __init__(
        self, store: ObjectStore, age_s: dict[str, float], deletes: int | None = None
    ) -> None:
        self._store = store
        self._age_s = age_s
        self._deletes = deletes

    async def ping(self) -> None:
        await self._store.ping()

    async def delete(self, key: str) -> None:
        if self._deletes == 0:
            raise InfraUnavailable("killed")
        if self._deletes is not None:
            self._deletes -= 1
        await self._store.delete(key)

    async def page(self, prefix: str, *, after: str, limit: int) -> list[StoredObject]:
        found = await self._store.page(prefix, after=after, limit=limit)
        now = datetime.now(UTC)
        return [
            StoredObject(
                key=one.key,
                modified_at=now - timedelta(seconds=self._age_s.get(one.key, 0.0)),
            )
            for one in found
        ]


def pass_over(
    api: Api, age_s: dict[str, float] | None = None, deletes: int | None = None, **how: Any
) -> Pruned | None:
    async def main() -> Pruned | None:
        database = Database(api.settings.database_url.get_secret_value())
        store = open_store(api.settings)
        try:
            aged = AgedStore(store, age_s or {}, deletes)
            return await prune(database, aged, api.settings, **how)
        finally:
            await database.close()
            store.close()

    return anyio.run(main)


def keys(api: Api) -> set[str]:
    return set(with_store(api, stored_keys))


def ended(api: Api, age_s: float, count: int = 1) -> str:
    job_id = api.create(count=count)
    api.progress(job_id, 0.1, 0.2, 0.3)
    for item in range(count):
        api.artifact(job_id, item, b"picture")
    api.finish(job_id, Status.SUCCEEDED, Reason.COMPLETED)
    age(api, job_id, age_s)
    return job_id


def age(api: Api, job_id: str, age_s: float) -> None:
    ago = f"now() - interval '{age_s} seconds'"
    api.sql(
        f"UPDATE jobs SET created_at = {ago}, updated_at = {ago}, "
        f"finished_at = CASE WHEN finished_at IS NULL THEN NULL ELSE {ago} END WHERE id = %s",
        job_id,
    )
    for table, moment in (("artifacts", "created_at"), ("events", "ts")):
        api.sql(f"UPDATE {table} SET {moment} = {ago} WHERE job_id = %s", job_id)


def count(api: Api, table: str, job_id: str) -> int:
    found: int = api.sql(f"SELECT count(*) FROM {table} WHERE job_id = %s", job_id)[0][0]
    return found


def test_pictures_past_their_age_go_and_their_job_stays(api: Api) -> None:
    old, young = ended(api, DAY_S + 60, count=2), ended(api, DAY_S - 60)
    shown = api.client.get(f"/v1/jobs/{old}").json()
    assert pass_over(api) == Pruned(artifacts=2, objects=2)
    assert (count(api, "artifacts", old), count(api, "artifacts", young)) == (0, 1)
    assert keys(api) == {key for (key,) in api.sql("SELECT s3_key FROM artifacts")}
    assert len(keys(api)) == 1
    # Neither its status nor its summary, which says that two were made.
    assert api.client.get(f"/v1/jobs/{old}").json() == shown
    assert shown["summary"] == {"count": 2, "completed": 2}


def test_events_past_their_age_go_but_the_verdict_can_still_be_followed(api: Api) -> None:
    old, young = ended(api, 7 * DAY_S + 60), ended(api, 7 * DAY_S - 60)
    before = count(api, "events", young)
    last = api.sql("SELECT event_seq FROM jobs WHERE id = %s", old)[0][0]
    pruned = pass_over(api)
    assert pruned is not None and pruned.events == last - rows.VERDICT_EVENTS
    left = api.sql("SELECT code FROM events WHERE job_id = %s ORDER BY seq", old)
    assert [code for (code,) in left][-2:] == ["job.finish", "progress"]
    assert count(api, "events", young) == before
    shown = api.client.get(f"/v1/jobs/{old}/progress").json()
    assert shown["progress"] == 1.0
    assert [item["progress"] for item in shown["items"]] == [1.0]
    stream = api.client.get(f"/v1/jobs/{old}/progress/stream")
    assert "event: progress" in stream.text  # and it closed
    header = {"Last-Event-ID": str(last)}
    assert api.client.get(f"/v1/jobs/{old}/progress/stream", headers=header).status_code == 204


def deliver(api: Api, job_id: str, states: dict[int, str]) -> None:
    """A webhook of the job for each sequence number, as old as the job's end."""
    for seq, state in states.items():
        api.sql(
            """INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state,
                created_at, ended_at, expires_at)
            SELECT id, %s, 'default', 'x', 'end', '{}', %s, updated_at,
                CASE WHEN %s <> 'waiting' THEN now() END, now() FROM jobs WHERE id = %s""",
            seq, state, state, job_id,
        )  # fmt: skip


def test_webhooks_past_their_age_go_but_not_those_that_wait(api: Api) -> None:
    old, young = ended(api, 7 * DAY_S + 60), ended(api, 7 * DAY_S - 60)
    states = {1: "delivered", 2: "dead", 3: "waiting"}
    for job in (old, young):
        deliver(api, job, states)
    pruned = pass_over(api)
    assert pruned is not None and pruned.deliveries == 2
    left = api.sql("SELECT job_id::text, state FROM deliveries ORDER BY seq")
    assert [state for job, state in left if job == old] == ["waiting"]
    assert [state for job, state in left if job == young] == list(states.values())


def test_jobs_past_their_age_go_with_everything(api: Api) -> None:
    old, young = ended(api, 30 * DAY_S + 60), ended(api, 30 * DAY_S - 60)
    pruned = pass_over(api)
    assert pruned is not None and (pruned.jobs, pruned.objects) == (1, 2)
    assert api.client.get(f"/v1/jobs/{old}").status_code == 404
    assert api.client.get(f"/v1/jobs/{young}").status_code == 200
    for table in ("steps", "events", "artifacts"):
        assert count(api, table, old) == 0
    assert keys(api) == set()


def test_a_job_with_a_picture_is_never_deleted_before_it(api: Api) -> None:
    job_id = ended(api, 30 * DAY_S + 60)
    assert api.transaction(rows.delete_jobs, age_s=DAY_S, limit=10) == 0
    assert count(api, "artifacts", job_id) == 1


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_live_job_loses_nothing_however_old(api: Api, state: str) -> None:
    job_id = api.create()
    if state == "running":
        api.lease(job_id)
        api.sql("UPDATE jobs SET status = 'running' WHERE id = %s", job_id)
    api.progress(job_id, 0.1, 0.2, 0.3, 0.4)
    key = api.artifact(job_id, 0, b"picture")
    age(api, job_id, 100 * DAY_S)
    assert pass_over(api, {key: 100 * DAY_S}) == Pruned()
    assert keys(api) == {key}
    assert count(api, "events", job_id) == 5


def put(api: Api, *names: str) -> None:
    async def work(store: ObjectStore) -> None:
        sha256 = hashlib.sha256(b"x").hexdigest()
        for name in names:
            await store.put(name, b"x", content_type="image/png", sha256=sha256)

    with_store(api, work)


def test_only_old_objects_under_our_prefix_that_no_row_names_are_deleted(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "OBJECTS", 2)  # several pages, one of them without an old one
    named = api.artifact(ended(api, 60), 1, b"picture")
    form = {"file": ("a.png", sound("png"))}
    assert api.client.post("/v1/inputs", files=form).status_code == 201
    ((sent,),) = api.sql("SELECT s3_key FROM inputs")
    old = [f"dreamforge/default/jobs/x/{name}.png" for name in "abcde"]
    young, foreign = "dreamforge/default/jobs/x/young.png", "other/a.png"
    put(api, *old, young, foreign)
    limit_s = TIMINGS.orphan_age_s
    assert limit_s == 60 + 300 + 3600
    ages = dict.fromkeys([*old, named, sent, foreign], limit_s + 60) | {young: limit_s - 60}
    assert pass_over(api, ages, dry_run=True) == Pruned(orphans=5)
    before = keys(api)
    assert before >= {*old, young, foreign}
    assert pass_over(api, ages) == Pruned(orphans=5)
    assert keys(api) == before - set(old)


def test_rows_of_workers_that_died_go_after_a_day(api: Api) -> None:
    for name, hours in (("dead", 25), ("died lately", 23), ("alive", 0)):
        api.sql(
            "INSERT INTO workers (id, host, version, queues, slots, models, heartbeat_at) VALUES"
            " (%s, %s, '1', '[]', '[]', '[]', now() - %s * interval '1 hour')",
            uuid4(), name, hours,
        )  # fmt: skip
    assert pass_over(api, dry_run=True) == Pruned(workers=1)
    assert pass_over(api) == Pruned(workers=1)
    left = api.sql("SELECT host FROM workers ORDER BY heartbeat_at")
    assert left == [("died lately",), ("alive",)]


def test_usage_goes_by_its_day_and_stays_longer_than_jobs(api: Api) -> None:
    for days in (729, 731):
        api.sql(
            'INSERT INTO usage (day, "user", model) VALUES'
            " ((now() AT TIME ZONE 'UTC')::date - %s::int, 'ada', 'tiny@1')",
            days,
        )
    api.sql(
        'INSERT INTO tag_usage (day, "user", tag_key, tag_value, model)'
        " SELECT day, \"user\", 'project', 'shop', model FROM usage"
    )
    assert pass_over(api, dry_run=True) == Pruned(usage=2)
    assert pass_over(api) == Pruned(usage=2)
    for table in ("usage", "tag_usage"):
        left = api.sql(f"SELECT (now() AT TIME ZONE 'UTC')::date - day FROM {table}")
        assert left == [(729,)]


def test_a_dry_run_says_what_a_pass_does_and_changes_nothing(api: Api) -> None:
    made = [ended(api, days * DAY_S) for days in (0.5, 2, 8, 31)]
    before = [(count(api, "events", job), count(api, "artifacts", job)) for job in made]
    promised = pass_over(api, dry_run=True)
    assert promised is not None and (promised.artifacts, promised.jobs) == (3, 1)
    assert [(count(api, "events", job), count(api, "artifacts", job)) for job in made] == before
    assert len(keys(api)) == 4
    assert pass_over(api) == promised


def test_what_a_killed_pass_left_is_done_by_the_next(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ARTIFACTS", 2)
    job_id = ended(api, 31 * DAY_S, count=5)
    with pytest.raises(InfraUnavailable):
        pass_over(api, deletes=1)
    # Two rows are gone and one object: the other object is nobody's, and no row lacks its object.
    left = {key for (key,) in api.sql("SELECT s3_key FROM artifacts")}
    assert len(left) == 3 and left < keys(api) and len(keys(api)) == 4
    assert api.client.get(f"/v1/jobs/{job_id}").status_code == 200
    orphan = dict.fromkeys(keys(api) - left, DAY_S)
    assert pass_over(api, orphan) is not None
    assert keys(api) == set()
    assert api.sql("SELECT count(*) FROM jobs") == [(0,)]


@pytest.mark.parametrize("table", ["artifacts", "inputs", "events", "deliveries", "jobs"])
def test_a_batch_has_a_limit_however_postgresql_plans_it(api: Api, table: str) -> None:
    """A plan that asks for the batch again at each row of the table deleted all of them."""
    for mode in ("RGB", "RGBA", "P"):
        job_id = ended(api, DAY_S)
        deliver(api, job_id, {1: "delivered"})
        form = {"file": ("a.png", sound("png", mode))}
        assert api.client.post("/v1/inputs", files=form).status_code == 201
    api.sql("UPDATE inputs SET used_at = used_at - interval '1 day'")
    if table == "jobs":
        api.sql("DELETE FROM artifacts")
    ((before,),) = api.sql(f"SELECT count(*) FROM {table}")

    async def one_batch(connection: AsyncConnection) -> None:
        for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize"):
            await connection.execute(text(f"SET LOCAL enable_{way} = off"))
        await getattr(rows, f"delete_{table}")(connection, age_s=60, limit=2)

    api.transaction(one_batch)
    assert api.sql(f"SELECT count(*) FROM {table}") == [(before - 2,)]


def test_no_row_goes_while_the_store_is_away(api: Api, stack: Any) -> None:
    job_id = ended(api, 2 * DAY_S)
    stack.stop("store")
    try:
        with pytest.raises(InfraUnavailable):
            pass_over(api)
    finally:
        stack.restart("store")
    assert count(api, "artifacts", job_id) == 1


def test_a_store_that_lists_the_same_page_for_ever_is_an_error(api: Api) -> None:
    put(api, "dreamforge/default/jobs/x/a.png")

    class Stuck(AgedStore):
        async def page(self, prefix: str, *, after: str, limit: int) -> list[StoredObject]:
            return await super().page(prefix, after="", limit=limit)

    async def main() -> None:
        database = Database(api.settings.database_url.get_secret_value())
        store = open_store(api.settings)
        try:
            with anyio.fail_after(30), pytest.raises(InfraUnavailable, match="from a key on"):
                await prune(database, Stuck(store, {}), api.settings)
        finally:
            await database.close()
            store.close()

    anyio.run(main)


def test_one_pruner_at_a_time_and_the_lock_is_free_after_it(api: Api) -> None:
    ended(api, 2 * DAY_S)

    async def main() -> tuple[Pruned | None, Pruned | None]:
        url = api.settings.database_url.get_secret_value()
        first, second = Database(url), Database(url)
        store = open_store(api.settings)
        try:
            async with first.try_lock(rows.ADVISORY_LOCK) as acquired:
                assert acquired
                during = await prune(second, store, api.settings)
            return during, await prune(second, store, api.settings)
        finally:
            await first.close()
            await second.close()
            store.close()

    during, after = anyio.run(main)
    assert during is None
    assert after == Pruned(artifacts=1, objects=1)


def test_a_lock_is_free_when_its_holder_failed(api: Api) -> None:
    async def main() -> None:
        database = Database(api.settings.database_url.get_secret_value())
        other = Database(api.settings.database_url.get_secret_value())
        try:
            with pytest.raises(RuntimeError):
                async with database.try_lock(1) as acquired:
                    assert acquired
                    raise RuntimeError
            async with other.try_lock(1) as acquired:
                assert acquired
        finally:
            await database.close()
            await other.close()

    anyio.run(main)


def test_the_command_deletes_and_says_what(
    api: Api,
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_id = ended(api, 2 * DAY_S)
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    assert run(["prune", "--dry-run", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dry_run"], said["artifacts"], said["orphans"]) == (True, 1, 0)
    assert count(api, "artifacts", job_id) == 1
    monkeypatch.setenv("DF_RETAIN_ARTIFACTS_S", str(3 * DAY_S))
    assert run(["prune"]) == 0
    assert count(api, "artifacts", job_id) == 1
    monkeypatch.setenv("DF_RETAIN_ARTIFACTS_S", str(DAY_S))
    assert run(["prune"]) == 0
    assert count(api, "artifacts", job_id) == 0
    monkeypatch.setenv("DF_RETAIN_JOBS_S", "60")
    assert run(["prune"]) == 2
    assert "DF_RETAIN_JOBS_S=60 must be at least" in capsys.readouterr().err
