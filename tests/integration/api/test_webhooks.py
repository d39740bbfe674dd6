"""Webhooks on a real PostgreSQL: each fact at least once, in order, signed, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from tests.support.api_harness import BODY, Api, running_api, until
from tests.support.webhook_receiver import Receiver, receiver

from api.webhooks import deliverer, transport
from api.webhooks.transport import Message, NotDelivered, Transport, retry_after_s
from cli.main import run
from shared.db import deliveries
from shared.db.deliveries import Delivery
from shared.db.delivery_claim import InFlight, claim
from shared.db.engine import Connection, Database
from shared.db.events import append_events
from shared.db.step_store import PostgresStepStore
from shared.errors import InfraUnavailable
from shared.events import Code, NewEvent
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, ClaimRequest, StoredArtifact
from shared.webhooks import parse_networks


def secret(letter: bytes) -> str:
    return f"whsec_{base64.b64encode(letter * 32).decode()}"


OLD, NEW = secret(b"a"), secret(b"b")
HERE = {
    "webhook_secrets": f"default:{OLD},default:{NEW}",
    "webhook_private": "127.0.0.1/32,127.0.0.2/32",
}
ALL = ["start", "artifact", "end"]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(deliverer, "MOST_PAUSE_S", 0.05)
    monkeypatch.setattr(deliverer, "POLL_S", 0.05)
    monkeypatch.setattr(deliverer, "SPACING_S", 0.01)


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment, **HERE) as running:
        running.install()
        yield running


@pytest.fixture
def command(
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """Run `dreamforge webhook …`; its JSON, or what it says where it fails."""
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)

    def webhook(*arguments: str) -> Any:
        capsys.readouterr()
        code = run(["webhook", *arguments, "-o", "json"])
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else said.err

    return webhook


def ended(api: Api, server: Receiver, **webhook: Any) -> str:
    """A job that has ended and whose receiver wants to know it."""
    job = api.create(webhook={"url": server.url} | webhook)
    api.finish(job)
    return job


def states(api: Api, job: str) -> list[str]:
    query = "SELECT state FROM deliveries WHERE job_id = %s ORDER BY seq"
    return [state for (state,) in api.sql(query, job)]


def until_states(api: Api, job: str, *expected: str) -> None:
    until(lambda: states(api, job) == list(expected), f"{job}: {expected}")


# What is sent -------------------------------------------------------------------------------------


def test_each_fact_is_sent_once_in_order_signed_with_both_secrets(api: Api) -> None:
    """As a worker's store writes them; a second attempt is no second start."""

    async def work() -> None:
        database = Database(api.settings.database_url.get_secret_value())
        store = PostgresStepStore(database)
        request = ClaimRequest(
            worker_id=worker, slot="cpu-0", queues=("default",), device="cpu",
            capacity_bytes=1 << 40, models=(model.id,), lease_s=60,
        )  # fmt: skip
        start = NewEvent(code=Code.STEP_START, message="starts")
        again = AttemptResult(
            state=StepState.QUEUED, reason=None, attempt=1, losses=0, events=[], delay_s=0.0
        )
        done = AttemptResult(
            state=StepState.SUCCEEDED, reason=Reason.COMPLETED, attempt=2, losses=0
        )
        picture = StoredArtifact(
            item_index=0, format="png", width=8, height=8, seed=7, s3_key="k", sha256="0" * 64,
            size_bytes=1,
        )  # fmt: skip
        try:
            for end in (again, done):
                claim = await store.claim(request)
                assert claim is not None
                await store.commit_running(claim, [start])
                if end is done:
                    event = NewEvent(
                        code=Code.ARTIFACT_WRITTEN, message="", item_index=0, payload={"seed": 7}
                    )
                    assert await store.add_artifact(claim, picture, event)
                await store.finish(claim, end)
        finally:
            await database.close()

    model = api.install()
    worker = api.worker(model)
    with receiver() as server:
        webhook = {"url": server.url, "events": ALL}
        job = api.create(webhook=webhook, tags={"order": "7"}, prompt="a secret wish")
        anyio.run(work)
        until_states(api, job, *["delivered"] * 3)
        contents = [call.content(OLD) for call in server.calls]
        assert contents == [call.content(NEW) for call in server.calls]
    assert [content["type"] for content in contents] == ["job.start", "job.artifact", "job.end"]
    data = [content["data"] for content in contents]
    assert [each["job"]["status"] for each in data] == ["running", "running", "succeeded"]
    assert data[1]["artifact"] == {"item_index": 0, "seed": 7}
    assert data[2]["job"] == {
        "id": job, "type": "generate", "status": "succeeded", "reason": "completed", "count": 1,
        "tags": {"order": "7"}, "error": None,
    }  # fmt: skip
    assert len({call.id for call in server.calls}) == 3
    assert {call.path for call in server.calls} == {"/hook?key=1"}
    assert b"secret wish" not in b"".join(call.body for call in server.calls)


def test_a_receiver_gets_what_it_asked_for_and_the_end_by_default(api: Api) -> None:
    with receiver() as server:
        job = ended(api, server)
        api.finish(api.create())  # it has no webhook
        until_states(api, job, "delivered")
        assert [call.content(OLD)["type"] for call in server.calls] == ["job.end"]


def test_facts_that_are_written_while_others_are_sent_keep_their_order(api: Api) -> None:
    """Each may be written at the moment at which the one before it ends; none is forgotten."""
    count = 150

    async def write() -> None:
        database = Database(api.settings.database_url.get_secret_value())
        try:
            for number in range(count):
                event = NewEvent(code=Code.ARTIFACT_WRITTEN, message="", item_index=number)
                await database.transaction(append_events, UUID(job), [event])
                await anyio.sleep(0.02 * (number % 3))
        finally:
            await database.close()

    with receiver() as server:
        job = api.create(webhook={"url": server.url, "events": ALL})
        anyio.run(write)
        until(lambda: len(server.calls) >= count, "all are sent", timeout_s=60)
        sent = [json.loads(call.body)["data"]["artifact"]["item_index"] for call in server.calls]
        assert sent == list(range(count))


def test_a_fact_that_is_rolled_back_is_not_told(api: Api) -> None:
    job = api.create(webhook={"url": "http://127.0.0.1:9/"})

    async def fail(connection: Connection) -> None:
        event = NewEvent(code=Code.JOB_FINISH, message="")
        await append_events(connection, UUID(job), [event])
        raise InfraUnavailable("the commit does not happen")

    with pytest.raises(InfraUnavailable):
        api.transaction(fail)
    assert states(api, job) == []


# Receivers that fail ------------------------------------------------------------------------------


def test_a_message_is_sent_again_with_its_id_until_it_is_accepted(api: Api) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    answers: list[tuple[int, dict[str, str]]] = [
        (500, {}),
        (503, {"Retry-After": "0"}),
        (404, {"Retry-After": later}),
        (302, {"Location": "/elsewhere"}),
        (200, {}),
    ]
    with receiver(lambda number: answers[number]) as server:
        job = ended(api, server)
        until_states(api, job, "delivered")
        assert len({call.id for call in server.calls}) == 1
        assert len(server.calls) == len(answers)
        assert {call.path for call in server.calls} == {"/hook?key=1"}  # no redirect is followed
        assert all(call.content(NEW) for call in server.calls)


@pytest.mark.parametrize(("asked", "after"), [("3600", "50 min"), ("9" * 15, "23 hours")])
def test_a_retry_waits_as_long_as_the_receiver_asks(api: Api, asked: str, after: str) -> None:
    """To the day's end at most, though it asks for more than PostgreSQL can count."""
    with receiver(lambda _: (429, {"Retry-After": asked})) as server:
        job = ended(api, server)
        query = "SELECT last_error, next_at > now() + %s::interval FROM deliveries"
        until(lambda: api.sql(query, after) == [("answered 429", True)], "it waits so long")
        assert [call.content(OLD)["data"]["job"]["id"] for call in server.calls] == [job]


def test_a_message_is_given_up_after_a_day_or_at_once_where_it_is_gone(
    api: Api, command: Callable[..., Any]
) -> None:
    answer = {"status": 410}
    with receiver(lambda _: (answer["status"], {})) as server:
        gone = ended(api, server)
        until_states(api, gone, "dead")
        answer["status"] = 500
        old = ended(api, server)
        api.sql("UPDATE deliveries SET expires_at = now() WHERE job_id = %s", old)
        until_states(api, old, "dead")

        listed = {each["job_id"]: each for each in command("list")["webhooks"]}
        assert listed.keys() == {gone, old}
        assert listed[gone]["last_error"] == "answered 410"
        assert listed[gone]["attempts"] == 1
        answer["status"] = 200
        sent = [call.id for call in server.calls]
        assert command("replay", listed[gone]["id"])["state"] == "waiting"
        until_states(api, gone, "delivered")
        assert server.calls[-1].id == listed[gone]["id"] == sent[0]
        assert "no dead letter" in command("replay", listed[gone]["id"])
        assert command("drop", listed[old]["id"])["dropped"]
        assert command("list") == {"webhooks": []}
        assert "no id of a webhook" in command("drop", "x")


def test_an_earlier_message_of_a_job_holds_the_later_ones(api: Api) -> None:
    answer = {"status": 500}
    with receiver(lambda _: (answer["status"], {})) as server:
        job = api.create(webhook={"url": server.url, "events": ALL})
        for code in (Code.STEP_START, Code.ARTIFACT_WRITTEN):
            api.append(job, NewEvent(code=code, message=""))
        api.finish(job)
        until(lambda: len(server.calls) > 2, "the first one is tried")
        assert {json.loads(call.body)["type"] for call in server.calls} == {"job.start"}
        answer["status"] = 410
        until(lambda: len(states(api, job)) == 3 and set(states(api, job)) == {"dead"}, "all dead")
        kinds = [json.loads(call.body)["type"] for call in server.calls]
        assert kinds[-2:] == ["job.artifact", "job.end"]


def test_receivers_that_hang_hold_up_nobody_else(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are places in all, but for the bound of each host."""
    released = threading.Event()
    monkeypatch.setattr(deliverer, "AT_ONCE", 6)
    monkeypatch.setattr(deliverer, "PER_USER", 6)

    def hang(_: int) -> tuple[int, dict[str, str]]:
        released.wait(60)
        return 200, {}

    with receiver(hang) as hanging, receiver() as quick:
        for _ in range(12):
            ended(api, hanging)
        until(lambda: len(hanging.calls) >= deliverer.PER_HOST, "they hang")
        until_states(api, ended(api, quick), "delivered")
        assert len(hanging.calls) == deliverer.PER_HOST
        released.set()


@pytest.mark.parametrize("how", ["no answer", "endless head", "closed", "no listener"])
def test_a_receiver_cannot_keep_an_attempt(
    api: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(transport, "DEADLINE_S", 0.5)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if how == "endless head":
                    try:
                        connection.sendall(b"HTTP/1.1 200 OK\r\n")
                        while True:
                            connection.sendall(b"X-Flood: " + b"x" * 1000 + b"\r\n")
                    except OSError:
                        continue
                elif how == "no answer":
                    over.wait(2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if how == "no listener":
            listener.close()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        job = api.create(webhook={"url": f"http://127.0.0.1:{port}/"})
        api.finish(job)
        query = "SELECT last_error FROM deliveries WHERE job_id = %s AND attempts > 1"
        until(lambda: api.sql(query, job) not in ([], [(None,)]), "it is tried again")
        over.set()
        listener.close()
        thread.join(10)


def test_an_endless_body_is_not_read(api: Api) -> None:
    """The head says that the message was accepted; that is all we want to know."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            try:
                while True:
                    connection.sendall(b"x" * 65536)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        job = api.create(webhook={"url": f"http://127.0.0.1:{listener.getsockname()[1]}/"})
        api.finish(job)
        until_states(api, job, "delivered")
        thread.join(10)
        assert not thread.is_alive()


# Where it may go ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("webhook", "field"),
    [
        ({"url": "http://10.0.0.1/"}, "webhook.url"),
        ({"url": "http://[::ffff:10.0.0.1]/"}, "webhook.url"),
        ({"url": "http://user:password@example.org/"}, "webhook.url"),
        ({"url": "ftp://example.org/"}, "webhook.url"),
        ({"url": "http:///hook"}, "webhook.url"),
        ({"url": f"http://example.org/{'x' * 2048}"}, "webhook.url"),
        ({"url": "http://example.org/", "events": []}, "webhook.events"),
        ({"url": "http://example.org/", "events": ["end", "end"]}, "webhook.events"),
        ({"url": "http://example.org/", "events": ["progress"]}, "webhook.events.0"),
    ],
)
def test_what_could_never_be_sent_is_refused_at_create(
    api: Api, webhook: dict[str, Any], field: str
) -> None:
    answer = api.client.post("/v1/jobs", json=BODY | {"webhook": webhook})
    assert answer.status_code == 422, answer.text
    assert answer.json()["details"]["errors"][0]["field"] == field
    assert "password@" not in answer.text


def test_without_a_secret_there_are_no_webhooks(stack_environment: dict[str, str]) -> None:
    with running_api(stack_environment) as api:
        api.install()
        answer = api.client.post("/v1/jobs", json=BODY | {"webhook": {"url": "http://a.example/"}})
        assert answer.status_code == 422
        assert "DF_WEBHOOK_SECRETS" in answer.json()["message"]


def test_a_private_address_behind_a_name_is_not_called(
    stack_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running_api(stack_environment, webhook_secrets=HERE["webhook_secrets"]) as api,
        receiver() as server,
    ):
        api.install()
        job = api.create(webhook={"url": f"http://localhost:{server.port}/"})
        api.finish(job)
        query = "SELECT last_error FROM deliveries WHERE attempts > 1"
        until(lambda: api.sql(query) != [], "it is tried again")
        assert "the address is private" in api.sql(query)[0][0]
        assert server.calls == []


def send(
    url: str, answers: list[str], private: str = "127.0.0.2/32", cafile: Path | None = None
) -> list[str]:
    """Send to a URL whose name resolves to these addresses, one a time; the names resolved."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[Any]:
        asked.append(host)
        return [ip_address(each) for each in answers.pop(0).split()]

    async def main() -> None:
        way = Transport(parse_networks(private), resolve=resolve)
        if cafile is not None:
            way._tls.load_verify_locations(cafile)
        await way.send(Message(url=url, headers={"webhook-id": "m"}, body=b"{}"))

    anyio.run(main)
    return asked


def test_the_address_that_was_judged_is_the_one_that_is_called() -> None:
    """A name that resolves to something else a moment later (rebinding) finds nobody who asks."""
    with receiver(host="127.0.0.2") as server:
        url = f"http://rebind.example:{server.port}/hook"
        assert send(url, ["127.0.0.2", "127.0.0.1"]) == ["rebind.example"]
        assert server.calls[0].headers["host"] == f"rebind.example:{server.port}"
        # Of several addresses those that are allowed, and the next one where one does not answer.
        send(url, ["10.0.0.1 127.0.0.3 127.0.0.2"], private="127.0.0.2/31")
        assert len(server.calls) == 2
        with pytest.raises(NotDelivered, match="private"):
            send(url, ["10.0.0.1 127.0.0.1"])


def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=DNS:receiver.example", "-keyout", "key.pem", "-out", "ca.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    names: list[str] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with receiver(host="127.0.0.2") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        ca = tmp_path / "ca.pem"
        send(f"https://receiver.example:{server.port}/", ["127.0.0.2"], cafile=ca)
        assert (names, len(server.calls)) == (["receiver.example"], 1)
        for url in ("https://other.example", "https://127.0.0.2"):
            with pytest.raises(NotDelivered, match="CERTIFICATE_VERIFY_FAILED"):
                send(f"{url}:{server.port}/", ["127.0.0.2"], cafile=ca)
        assert len(server.calls) == 1


# Several processes, and processes that are killed -------------------------------------------------


def test_processes_share_the_work(stack_environment: dict[str, str]) -> None:
    with ExitStack() as stack:
        apis = [stack.enter_context(running_api(stack_environment, **HERE)) for _ in range(3)]
        server = stack.enter_context(receiver())
        apis[0].install()
        for _ in range(30):
            ended(apis[0], server)
        until(
            lambda: (
                apis[0].sql("SELECT count(*) FROM deliveries WHERE state = 'delivered'") == [(30,)]
            ),
            "all are delivered",
        )
        assert len(server.calls) == len({call.id for call in server.calls}) == 30


def created(environment: dict[str, str], server: Receiver) -> tuple[Api, str]:
    """A job that has ended, and no api that runs: the fact waits in the database."""
    with running_api(environment, **HERE) as api:
        api.install()
        job = api.create(webhook={"url": server.url})
    api.finish(job)
    return api, job


def test_what_a_process_claimed_that_died_is_due_again(stack_environment: dict[str, str]) -> None:
    with receiver() as server:
        api, job = created(stack_environment, server)

        def take() -> list[Delivery]:
            none = InFlight(counts={}, most=9)
            claimed, _ = api.transaction(
                claim, limit=9, hosts=none, users=none, after={}, lease_s=0.5
            )
            return list(claimed)

        (claimed,) = take()
        assert take() == []
        with running_api(stack_environment, **HERE) as other:
            until_states(other, job, "delivered")
        assert [call.id for call in server.calls] == [claimed.id]
        # Had it only been late: what it says now changes nothing.
        assert api.transaction(deliveries.failed, claimed, "late", pause_s=0.0) is None
        assert states(api, job) == ["delivered"]


def test_what_a_killed_process_was_sending_is_sent_again_with_the_same_id(
    stack_environment: dict[str, str], tmp_path: Path
) -> None:
    over = threading.Event()

    def script(number: int) -> tuple[int, dict[str, str]]:
        if number == 0:
            over.wait(60)
        return 200, {}

    with receiver(script) as server:
        api, job = created(stack_environment, server)
        settings = {f"DF_{name.upper()}": value for name, value in HERE.items()}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "api"],
            env=os.environ | stack_environment | settings | {"DF_API_PORT": "0"},
            cwd=tmp_path,
        )
        try:
            until(lambda: len(server.calls) == 1, "it is sent", timeout_s=60)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            over.set()
        lease = "UPDATE deliveries SET next_at = now() WHERE next_at > now() RETURNING attempts"
        assert api.sql(lease) == [(1,)]
        with running_api(stack_environment, **HERE) as other:
            until_states(other, job, "delivered")
        assert len(server.calls) == 2
        assert len({call.id for call in server.calls}) == 1


def test_retry_after_has_two_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s("120") == 120
    assert retry_after_s("Thu, 01 Jan 2026 00:01:00 GMT", now=now) == 60
    assert retry_after_s("Wed, 31 Dec 2025 00:00:00 GMT", now=now) == 0
    for text in ("", "soon", "-1", "1.5", "Thu, 99 Jan 2026 00:01:00 GMT"):
        assert retry_after_s(text, now=now) is None
