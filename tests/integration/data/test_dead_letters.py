"""The dead-letter list: jobs that were given up, and messages that nobody could read."""

from __future__ import annotations

import base64
import bz2
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
import redis
from tests.support.api_harness import Api, running_api, until
from tests.support.infrastructure import Infrastructure

from cli.main import run
from shared.db import dead_letters, inputs
from shared.db.inputs import NewInput
from shared.dispatch.dead_letters import KEY, MOST, DeadMessages, dead_message
from shared.errors import Conflict, ModelUnavailable, NotFound
from shared.object_store import open_store
from shared.states import Reason, Status
from supervisor.dispatch import consumer as dispatch

LAST = {"code": "runner_crashed", "message": "exit status 1", "details": {}}
ERROR = {
    "code": "attempts_exhausted",
    "message": "gave up after 3 attempts and 0 losses",
    "details": {"attempts": 3, "losses": 0, "last_error": LAST},
}


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        yield running


@pytest.fixture
def broker(stack_environment: dict[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack_environment["DF_REDIS_URL"]) as client:
        client.flushall()
        yield client
        client.flushall()


@pytest.fixture
def command(
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run `dreamforge dlq …` against the real parts; its exit code and its JSON."""
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)

    def dlq(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = run(["dlq", *arguments, "--output", "json"])
        said = capsys.readouterr().out
        return code, json.loads(said) if said else None

    return dlq


def dead_job(api: Api, **body: Any) -> str:
    api.install()
    job_id = api.create(**body)
    api.finish(job_id, Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, ERROR)
    return job_id


# Jobs ---------------------------------------------------------------------------------------------


def test_only_jobs_that_were_given_up_are_on_the_list(
    api: Api, broker: redis.Redis, command: Any
) -> None:
    dead = dead_job(api)
    api.finish(api.create(), Status.FAILED, Reason.OOM, {"code": "oom", "message": "no"})
    api.create()
    code, found = command("list")
    assert code == 0
    assert [(letter["kind"], letter["id"]) for letter in found["dead_letters"]] == [("job", dead)]
    assert found["dead_letters"][0]["reason"] == "runner_crashed: exit status 1"


def test_a_replay_is_a_new_job_of_the_same_request_and_leaves_the_dead_one_dead(
    api: Api, broker: redis.Redis, command: Any
) -> None:
    dead = dead_job(api, prompt="a green pear", seed=7, count=2)
    api.sql("UPDATE jobs SET traceparent = 'of its request' WHERE id = %s", dead)
    before = api.client.get(f"/v1/jobs/{dead}").json()
    code, made = command("replay", dead)
    assert code == 0
    assert made["replay_of"] == dead
    pinned = (
        "SELECT s.name, s.params, s.preset, s.vram_bytes, s.timeout_s, s.model_id, s.queue, "
        "s.checkpoint_sha256, j.request, j.count, j.user, j.type, "
        "j.correlation_id, j.traceparent "
        "FROM steps s JOIN jobs j ON j.id = s.job_id WHERE j.id = %s"
    )
    assert api.sql(pinned, made["id"]) == api.sql(pinned, dead)
    assert api.sql(
        "SELECT status, replay_of, reason, key_hash FROM jobs WHERE id = %s", made["id"]
    ) == [("queued", UUID(dead), None, None)]
    assert api.sql("SELECT state, attempt, losses FROM steps WHERE job_id = %s", made["id"]) == [
        ("queued", 0, 0)
    ]
    assert api.client.get(f"/v1/jobs/{dead}").json() == before
    _, shown = command("show", dead)
    assert shown["replays"] == [{"id": made["id"], "status": "queued"}]
    assert shown["request"]["prompt"] == "a green pear"


def test_a_replay_counts_by_the_same_tags(stack_environment: dict[str, str]) -> None:
    with running_api(stack_environment, usage_tags="project") as api:
        dead = dead_job(api, tags={"project": "shop", "note": "x"})
    again = api.transaction(dead_letters.replay, UUID(dead))
    tags = "SELECT key, value, in_usage FROM job_tags WHERE job_id = %s ORDER BY key"
    assert api.sql(tags, again.id) == [("note", "x", False), ("project", "shop", True)]


def test_a_job_is_not_replayed_whose_picture_is_gone(api: Api) -> None:
    id = store_input(api)
    dead = UUID(dead_job(api))
    api.sql("UPDATE steps SET inputs = jsonb_build_array(jsonb_build_object('id', %s::text))", id)
    first = api.transaction(dead_letters.replay, dead)
    api.finish(str(first.id), Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, ERROR)
    assert api.transaction(inputs.delete_input, id, user="default") is not None
    with pytest.raises(Conflict, match=f"picture {id}, which job {dead} starts from, is deleted"):
        api.transaction(dead_letters.replay, dead)


def store_input(api: Api) -> UUID:
    """The row of a picture, without its object."""
    new = NewInput(
        id=uuid4(), user="default", format="png", width=8, height=8, orientation=1, size_bytes=1,
        sha256="0" * 64, s3_key="dreamforge/default/inputs/0",
    )  # fmt: skip
    return api.transaction(inputs.insert, new).id


def test_a_job_is_not_replayed_while_its_replay_lives(api: Api) -> None:
    dead = UUID(dead_job(api))
    first = api.transaction(dead_letters.replay, dead)
    with pytest.raises(Conflict, match=str(first.id)):
        api.transaction(dead_letters.replay, dead)
    api.finish(str(first.id), Status.FAILED, Reason.ATTEMPTS_EXHAUSTED, ERROR)
    assert api.transaction(dead_letters.replay, dead).id != first.id


def test_two_replays_at_once_make_one_job(api: Api) -> None:
    dead = UUID(dead_job(api))
    refused: list[BaseException] = []

    def replay() -> None:
        try:
            api.transaction(dead_letters.replay, dead)
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=replay) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert api.sql("SELECT count(*) FROM jobs WHERE replay_of = %s", dead) == [(1,)]


def test_a_chain_is_replayed_whole_with_its_step_that_has_no_model(api: Api) -> None:
    dead = dead_job(api, chain={"upscale": {"scale": 2, "impl": "resample"}})
    made = api.transaction(dead_letters.replay, UUID(dead)).id
    rows = "SELECT name, type, params, model_id, vram_bytes FROM steps WHERE job_id = %s"
    assert api.sql(f"{rows} ORDER BY position", made) == api.sql(f"{rows} ORDER BY position", dead)
    assert len(api.sql(rows, made)) == 2


def test_what_could_never_run_again_is_not_replayed(api: Api) -> None:
    dead = UUID(dead_job(api))
    api.sql("UPDATE models SET checkpoint_sha256 = repeat('0', 64)")
    with pytest.raises(ModelUnavailable, match="another checkpoint"):
        api.transaction(dead_letters.replay, dead)
    api.sql("UPDATE models SET enabled = false")
    with pytest.raises(ModelUnavailable, match="disabled"):
        api.transaction(dead_letters.replay, dead)


@pytest.mark.parametrize("action", [dead_letters.replay, dead_letters.drop, dead_letters.get])
def test_a_job_that_is_not_dead_is_left_alone(api: Api, action: Any) -> None:
    api.install()
    job_id = UUID(api.create())
    for wanted in (job_id, uuid4()):
        with pytest.raises(NotFound, match=str(wanted)):
            api.transaction(action, wanted)
    assert api.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_a_dropped_job_is_gone_with_its_rows_and_its_objects(
    api: Api, broker: redis.Redis, command: Any
) -> None:
    dead, other = dead_job(api), dead_job(api)
    gone, kept = api.artifact(dead, 0, b"gone"), api.artifact(other, 0, b"kept")
    replay = api.transaction(dead_letters.replay, UUID(dead))
    code, said = command("drop", dead)
    assert (code, said["objects"]) == (0, 1)
    for table in ("steps", "events", "artifacts"):
        assert api.sql(f"SELECT count(*) FROM {table} WHERE job_id = %s", dead) == [(0,)]
        assert api.sql(f"SELECT count(*) > 0 FROM {table} WHERE job_id = %s", other) == [(True,)]
    assert api.sql("SELECT replay_of FROM jobs WHERE id = %s", replay.id) == [(None,)]
    assert stored(api, gone) is None
    assert stored(api, kept) == b"kept"


def stored(api: Api, key: str) -> bytes | None:
    async def main() -> bytes | None:
        store = open_store(api.settings)
        try:
            return await store.get(key)
        finally:
            store.close()

    return anyio.run(main)


def test_without_a_database_the_command_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DF_DATABASE_URL", raising=False)
    assert run(["dlq", "list"]) == 2
    assert "DF_DATABASE_URL is not set" in capsys.readouterr().err


# Messages -----------------------------------------------------------------------------------------


class Ears:
    """The supervisor as the consumer sees it."""

    def __init__(self) -> None:
        self.heard = 0
        self.unread = 0
        self.started = threading.Event()

    def start(self) -> None:
        self.started.set()

    def notify(self) -> None:
        self.heard += 1

    def drain(self) -> None:
        pass

    def count_dead_letter(self) -> None:
        self.unread += 1


@pytest.fixture
def consumer(stack_environment: Mapping[str, str], broker: redis.Redis) -> Iterator[Ears]:
    """The worker's real consumer, in a process of its own thread's making."""
    from celery import signals
    from celery.worker import state

    ears = Ears()
    ends: list[int] = []
    thread = threading.Thread(
        target=lambda: ends.append(
            dispatch.consume(stack_environment["DF_REDIS_URL"], ears, "test@here")
        )
    )
    thread.start()
    try:
        assert ears.started.wait(30)
        yield ears
    finally:
        state.should_stop = 0
        thread.join(30)
        state.should_stop = None
        signals.setup_logging.receivers.clear()
        assert not thread.is_alive()
        assert ends == [0]


def envelope(body: str = "W1tdLCB7fSwge31d", **changes: Any) -> dict[str, Any]:
    """A message as our API sends it, `[[], {}, {}]` inside."""
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "dreamforge.default"},
        "delivery_tag": str(uuid4()),
        "body_encoding": "base64",
        "correlation_id": str(uuid4()),
    }
    headers = {"task": "dreamforge.step", "id": str(uuid4()), "lang": "py"}
    made = {
        "body": body,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    return made | changes


HEADERS: dict[str, Any] = envelope()["headers"]
PROPERTIES: dict[str, Any] = envelope()["properties"]
OLD = base64.b64encode(b'{"task": "dreamforge.step", "id": "x", "args": []}').decode()


def body(*parts: Any) -> str:
    return base64.b64encode(json.dumps(list(parts)).encode()).decode()


def bomb(pack: Callable[[bytes], bytes], name: str) -> str:
    """Some hundred bytes that are 32 MB."""
    packed = base64.b64encode(pack(b" " * (32 << 20))).decode()
    return json.dumps(envelope(body=packed, headers=HEADERS | {"compression": name}))


ANOTHER: dict[str, Any] = {
    "task": "dreamforge.step",
    "args": [],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
}
UNREADABLE: dict[str, str | bytes] = {
    "no JSON": b"{'not': json",
    "no text": b"\xff\xfe\x00",
    "no envelope": b"[1, 2]",
    "no properties": json.dumps(envelope(properties=None)),
    "no delivery tag": json.dumps(envelope(properties={"delivery_info": {}})),
    "no base64": json.dumps(envelope(body="x")),
    "no task": json.dumps(envelope(headers={})),
    "no headers": json.dumps(envelope(headers=None)),
    "unknown task": json.dumps(envelope(headers=HEADERS | {"task": "other"})),
    "task of no kind": json.dumps(envelope(headers=HEADERS | {"task": ["list"]})),
    "pickle": json.dumps(envelope() | {"content-type": "application/x-python-serialize"}),
    "body is no JSON": json.dumps(envelope(body="e25vdA==")),
    "no id": json.dumps(envelope(headers={"task": "dreamforge.step"})),
    "headers are a text": json.dumps(envelope(headers="task")),
    "headers are a list": json.dumps(envelope(headers=["task"])),
    "an older protocol": json.dumps(envelope(headers={}, body=OLD)),
    "an encoding of none": json.dumps(envelope(properties=PROPERTIES | {"body_encoding": "none"})),
    "an encoding of no kind": json.dumps(envelope(properties=PROPERTIES | {"body_encoding": 1})),
    "a tag that is half a sign": json.dumps(
        envelope(properties=PROPERTIES | {"delivery_tag": "\ud800"})
    ),
    "for tomorrow": json.dumps(envelope(headers=HEADERS | {"eta": "9999-12-31T00:00:00"})),
    "compressed, or not": json.dumps(envelope(headers=HEADERS | {"compression": "zip"})),
    "too deep": b"[" * 200_000,
    "a long number": b"9" * 10_000,
    "a bomb of zlib": bomb(zlib.compress, "application/x-gzip"),
    "a bomb of bzip2": bomb(bz2.compress, "application/x-bz2"),
    "a bomb by its short name": bomb(zlib.compress, "zlib"),
    "a mark in front": b"\xef\xbb\xbf" + json.dumps(envelope()).encode(),
    "UTF-16": json.dumps(envelope()).encode("utf-16"),
    "nothing": b"",
    "NUL": b"\0",
    "two envelopes": json.dumps(envelope()) * 2,
    "an envelope in a list": json.dumps([envelope()]),
    "an envelope in a text": json.dumps(json.dumps(envelope())),
    "a type of kombu's that is none": b'{"__type__": "os.system", "__value__": "x"}',
    "a date of kombu's that is none": b'{"__type__": "datetime", "__value__": "x"}',
    "another content": json.dumps(envelope() | {"content-type": "application/x-yaml"}),
    "no content": json.dumps(envelope() | {"content-type": "application/data"}),
    "a text": json.dumps(envelope() | {"content-type": "text/plain"}),
    "a step that is a number": json.dumps(envelope(body([1], {}, {}))),
    "two steps": json.dumps(envelope(body(["a", "b"], {}, {}))),
    "a name that the task has not": json.dumps(envelope(body([], {"shell": "x"}, {}))),
    "no options": json.dumps(envelope(body([], {}))),
    "arguments that are a text": json.dumps(envelope(body("x", {}, {}))),
    "a task afterwards": json.dumps(envelope(body([], {}, {"callbacks": [ANOTHER]}))),
    "a task on errors": json.dumps(envelope(body([], {}, {"errbacks": [ANOTHER]}))),
    "a chain": json.dumps(envelope(body([], {}, {"chain": [ANOTHER] * 1000}))),
    "a chord": json.dumps(envelope(body([], {}, {"chord": ANOTHER}))),
}
# What stands in place of a field, of any kind.
ODD: list[Any] = [
    None,
    0,
    -1,
    True,
    1.5,
    2**70,
    "",
    "x",
    "none",
    "\ud800",
    [],
    ["x"],
    {},
    {"x": {}},
]


def test_unreadable_messages_are_buried_and_the_consumer_goes_on_hearing(
    consumer: Ears,
    broker: redis.Redis,
    stack_environment: Mapping[str, str],
    command: Any,
    database_url: str,
) -> None:
    for raw in UNREADABLE.values():
        broker.lpush("dreamforge.default", raw)
    broker.lpush("dreamforge.default", json.dumps(envelope()))
    until(lambda: consumer.heard == 1 and consumer.unread == len(UNREADABLE), "all are taken")
    with_bodies = DeadMessages(stack_environment["DF_REDIS_URL"])
    found = with_bodies.all()
    with_bodies.close()
    assert len(found) == len(UNREADABLE)
    assert found[-1].body == "{'not': json"
    until(lambda: broker.hlen("unacked") == 0, "the last one is acknowledged, after it was heard")

    _, listed = command("list")
    assert {letter["id"] for letter in listed["dead_letters"]} == {message.id for message in found}
    assert {letter["kind"] for letter in listed["dead_letters"]} == {"message"}
    assert command("drop", found[0].id)[0] == 0
    assert broker.llen(KEY) == len(UNREADABLE) - 1


def test_a_broker_that_refuses_ends_no_consumer_and_makes_no_dead_letters(
    consumer: Ears, broker: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """As it does while its disk is full, or once it has become a replica."""
    broker.config_set("min-replicas-to-write", 1)
    try:
        until(lambda: "NOREPLICAS" in caplog.text, "it meets the refusal")
    finally:
        broker.config_set("min-replicas-to-write", 0)
    broker.lpush("dreamforge.default", json.dumps(envelope()))
    until(lambda: consumer.heard == 1, "it hears again")
    assert consumer.unread == 0


def odd_messages() -> Iterator[dict[str, Any]]:
    """Our message with each field, of each level, replaced by each odd value, and without it."""
    for path in (
        *((name,) for name in envelope()),
        *(("headers", name) for name in (*HEADERS, "expires", "timelimit", "retries", "group")),
        *(("properties", name) for name in (*PROPERTIES, "reply_to", "priority")),
        *(("properties", "delivery_info", name) for name in ("exchange", "routing_key")),
    ):
        for value in ODD:
            made = json.loads(json.dumps(envelope()))
            place = made
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
            yield made
        place.pop(path[-1])
        yield made
    for body in ODD:
        yield envelope(body=base64.b64encode(json.dumps(body).encode()).decode())


def test_no_field_of_a_message_ends_the_consumer_whatever_stands_in_it(
    consumer: Ears, broker: redis.Redis
) -> None:
    """What is odd and does no harm notifies; all the rest is a dead letter. Nothing remains."""
    messages = list(odd_messages())
    for message in messages:
        broker.lpush("dreamforge.default", json.dumps(message))
    until(lambda: broker.llen("dreamforge.default") == 0, "all are taken", 60)
    before = consumer.heard
    for _ in range(5):
        broker.lpush("dreamforge.default", json.dumps(envelope()))
    until(lambda: consumer.heard >= before + 5, "it goes on")
    until(lambda: broker.hlen("unacked") == 0, "nothing waits")
    assert consumer.unread > len(messages) / 2


def test_a_message_cannot_be_replayed(
    broker: redis.Redis, stack_environment: Mapping[str, str], command: Any, database_url: str
) -> None:
    dead = DeadMessages(stack_environment["DF_REDIS_URL"])
    dead.add(message := dead_message(queue="q", reason="why", body=b"\xff"))
    dead.close()
    assert command("replay", message.id)[0] == 2
    assert command("show", message.id)[1]["body"] == "\ufffd"
    assert broker.llen(KEY) == 1


def test_the_list_of_messages_is_bounded_and_shows_what_others_wrote(
    broker: redis.Redis, stack_environment: Mapping[str, str]
) -> None:
    broker.lpush(KEY, *[b"garbage"] * MOST)
    dead = DeadMessages(stack_environment["DF_REDIS_URL"])
    dead.add(dead_message(queue="q", reason="why", body="x" * 10_000))
    found = dead.all()
    assert len(found) == MOST
    assert (found[0].reason, len(found[0].body)) == ("why", 4096)
    assert found[1].reason == "not written by us"
    assert dead.drop(found[1].id)
    dead.close()
    assert broker.llen(KEY) == MOST - 1


def test_entries_that_others_wrote_are_listed_whatever_they_are(
    api: Api, broker: redis.Redis, command: Any
) -> None:
    """By the command, which talks to the broker, and by the API, whose answer is in UTF-8."""
    own = {"id": "a", "received_at": "b", "queue": "c", "reason": "d", "body": "e"}
    odd: list[bytes] = [
        b"[" * 100_000, b"\xff\xfe", b"", b"null", b"9" * 10_000, b"NaN",
        json.dumps(own | {"id": 1}).encode(), json.dumps(own | {"reason": None}).encode(),
        json.dumps(own | {"reason": "\ud800"}).encode(),
        json.dumps(own | {"id": "\udfff"}).encode(),
        json.dumps(own | {"reason": "\x1b]0;owned\x07\u202e" * 9999}).encode(),
        json.dumps(own | {"more": own}).encode(),
    ]  # fmt: skip
    for raw in odd:
        broker.lpush(KEY, raw)
    code, found = command("list")
    assert (code, len(found["dead_letters"])) == (0, len(odd))
    answer = api.client.get("/v1/dead-letters")
    assert (answer.status_code, len(answer.json()["dead_letters"])) == (200, len(odd))
    assert len(answer.content) < 100_000
    for letter in found["dead_letters"]:
        assert command("drop", letter["id"])[0] == 0
    assert broker.llen(KEY) == 0
    broker.set(KEY, "a text where a list was")
    assert command("list")[1]["messages_shown"] is False
    assert api.client.get("/v1/dead-letters").json()["messages_shown"] is False


def test_dead_jobs_are_listed_while_the_broker_is_away(
    api: Api, stack: Infrastructure, command: Any
) -> None:
    dead = dead_job(api)
    stack.stop("broker")
    try:
        code, found = command("list")
    finally:
        stack.restart("broker")
    assert (code, found["messages_shown"]) == (0, False)
    assert [letter["id"] for letter in found["dead_letters"]] == [dead]
