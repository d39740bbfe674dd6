"""A picture is deleted while a create that starts from it is under way: one of the two is refused.

Each has a session of its own. Who comes first stops inside its transaction until the other one
waits for its lock, so both orders are certain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.memory_store import Work
from tests.support.stores import InPostgres, claimed_job, note, picture

from shared.db import inputs
from shared.db.engine import Connection, Database
from shared.db.inputs import NewInput
from shared.db.insert_job import NewJob, NewStep, insert_job
from shared.errors import Conflict

SHA256 = picture().sha256  # of the artifact that it is a copy of, and of the input


class Sessions:
    """`create` and `delete`, with one connection each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.create = Database(url, pool_size=1, application="create")
        self.delete = Database(url, pool_size=1, application="delete")

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return execute(self.url, statement, *values)

    async def until_waits(self, session: str) -> None:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = %s AND wait_event_type = 'Lock'"
        )
        with anyio.fail_after(20):
            while self.sql(waiting, session) != [(1,)]:
                await anyio.sleep(0.01)

    async def race(
        self,
        first: tuple[Database, Callable[[Connection], Awaitable[Any]]],
        second: tuple[Database, Callable[[Connection], Awaitable[Any]]],
    ) -> Any:
        """What the second transaction gave or raised; it waited for the commit of the first."""
        begun, go = anyio.Event(), anyio.Event()
        name = "create" if second[0] is self.create else "delete"
        results: list[Any] = []

        async def hold(connection: Connection) -> None:
            await first[1](connection)
            begun.set()
            await go.wait()

        async def follow() -> None:
            try:
                results.append(await second[0].transaction(second[1]))
            except Conflict as refused:
                results.append(refused)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first[0].transaction, hold)
            await begun.wait()
            tasks.start_soon(follow)
            await self.until_waits(name)
            go.set()
        return results[0]


@pytest.fixture
def sessions(database_url: str) -> Sessions:
    return Sessions(database_url)


Test = Callable[[InPostgres, UUID], Awaitable[None]]


@pytest.fixture
def run(sessions: Sessions) -> Callable[[Test], None]:
    """Run a test with a store and the id of an input; a job has made a picture of its bytes."""

    async def main(test: Test) -> None:
        try:
            subject = InPostgres(sessions.create, sessions.url)
            _, taken = await claimed_job(subject)
            await subject.store.add_artifact(taken, picture(), note())
            new = NewInput(
                id=uuid4(), user="default", format="png", width=8, height=8, orientation=1,
                size_bytes=1, sha256=SHA256, s3_key="dreamforge/default/inputs/0",
            )  # fmt: skip
            await sessions.create.transaction(inputs.insert, new)
            await test(subject, new.id)
        finally:
            await sessions.create.close()
            await sessions.delete.close()

    return lambda test: anyio.run(main, test)


def job_from(subject: InPostgres, id: UUID) -> NewJob:
    """A job whose first step starts from this picture, twice."""
    step = subject.new_step(Work())
    pinned = [{"item_index": index, "role": "image", "id": str(id)} for index in (0, 1)]
    facts = {name: getattr(step, name) for name in NewStep.__dataclass_fields__}
    return NewJob(
        id=uuid4(),
        type="generate",
        user="default",
        request={},
        count=1,
        correlation_id="correlation",
        steps=[NewStep(**(facts | {"inputs": pinned}))],
    )


@pytest.mark.parametrize("how", ["the statement", "the transaction around it"])
@pytest.mark.parametrize("what", ["the picture", "the job that made it"])
def test_a_delete_waits_for_a_create_and_then_finds_its_job(
    run: Callable[[Test], None], sessions: Sessions, how: str, what: str
) -> None:
    async def test(subject: InPostgres, id: UUID) -> None:
        ((made_by,),) = sessions.sql("SELECT job_id FROM artifacts")
        new = job_from(subject, id)

        async def create(connection: Connection) -> None:
            if how == "the statement":
                assert await insert_job(connection, new) is not None
            else:
                assert await inputs.keep(connection, [id]) == {id}

        async def delete(connection: Connection) -> Any:
            if what == "the picture":
                return await inputs.delete_input(connection, id, user="default")
            return await inputs.delete_copies(connection, made_by, user="default")

        refused = await sessions.race((sessions.create, create), (sessions.delete, delete))
        if how != "the statement":  # it had kept the picture, and inserted nothing
            assert sessions.sql("SELECT count(*) FROM inputs") == [(0,)]
            return
        if what == "the picture":
            assert isinstance(refused, Conflict)
        else:
            assert refused == []
        assert sessions.sql("SELECT id FROM inputs") == [(id,)]

    run(test)


@pytest.mark.parametrize("how", ["the statement", "the transaction around it"])
def test_a_create_waits_for_a_delete_and_then_inserts_nothing(
    run: Callable[[Test], None], sessions: Sessions, how: str
) -> None:
    async def test(subject: InPostgres, id: UUID) -> None:
        new = job_from(subject, id)

        async def delete(connection: Connection) -> None:
            assert await inputs.delete_input(connection, id, user="default") is not None

        async def create(connection: Connection) -> Any:
            if how == "the statement":
                return await insert_job(connection, new)
            return await inputs.keep(connection, [id])

        found = await sessions.race((sessions.delete, delete), (sessions.create, create))
        assert found == (None if how == "the statement" else frozenset())
        assert sessions.sql("SELECT count(*) FROM jobs WHERE id = %s", new.id) == [(0,)]

    run(test)


def test_a_job_whose_pictures_are_there_is_inserted(run: Callable[[Test], None]) -> None:
    """The checks of the statement must be able to say yes, also with a picture named twice."""

    async def test(subject: InPostgres, id: UUID) -> None:
        assert await subject.database.transaction(insert_job, job_from(subject, id)) is not None
        gone = job_from(subject, uuid4())
        assert await subject.database.transaction(insert_job, gone) is None

    run(test)
