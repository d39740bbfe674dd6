"""What a receiver, a name server or a bug of ours can do to the process that calls receivers."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import anyio
import pytest
from tests.support.api_harness import settings_of
from tests.support.stored_events import NOW

from api.metrics import Metrics
from api.webhooks import deliverer as module
from api.webhooks.deliverer import Deliverer
from api.webhooks.transport import (
    AT_ONCE,
    MAX_WHY,
    Message,
    NotDelivered,
    Transport,
    retry_after_s,
)
from shared.db import deliveries
from shared.db.deliveries import TRIED_S, Delivery
from shared.db.delivery_claim import claim
from shared.states import DeliveryState
from shared.webhooks import WebhookEvent

SETTINGS = {
    "database_url": "postgresql://u:p@127.0.0.1/x",
    "redis_url": "redis://127.0.0.1",
    "s3_endpoint": "http://127.0.0.1:9",
    "s3_access_key": "a",
    "s3_secret_key": "b",
    "webhook_secrets": f"default:whsec_{base64.b64encode(b'a' * 32).decode()}",
}


def delivery(host: str = "a.example", user: str = "default") -> Delivery:
    return Delivery(
        job_id=uuid4(), seq=1, user=user, host=host, event=WebhookEvent.END, payload={},
        state=DeliveryState.WAITING, attempts=1, created_at=NOW, next_at=NOW, last_error=None,
        url=f"http://{host}/",
    )  # fmt: skip


class Deliveries:
    """The table, as far as a deliverer sees it: what each claim finds, and what was written."""

    def __init__(self, *claims: Sequence[Delivery] | Exception) -> None:
        self._claims = list(claims)
        self.asked: list[dict[str, Any]] = []
        self.failed: list[tuple[str, float | None]] = []
        self.written = anyio.Event()

    async def transaction(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        if work is claim:
            counts = {name: dict(kwargs[name].counts) for name in ("hosts", "users")}
            self.asked.append(kwargs | counts)
            found = self._claims.pop(0) if self._claims else []
            if isinstance(found, Exception):
                raise found
            return found, {}
        if work is deliveries.failed:
            self.failed.append((args[1], kwargs["pause_s"]))
        self.written.set()
        return DeliveryState.WAITING


class Answers:
    """A transport whose receivers all answer so."""

    def __init__(self, error: NotDelivered | None = None) -> None:
        self._error = error

    async def send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error


def deliver(table: Deliveries, answers: Any) -> Deliveries:
    """Run a deliverer until something was written."""

    async def main() -> None:
        settings = settings_of({}, **SETTINGS)
        database: Any = table
        deliverer = Deliverer(database, settings, Metrics(), answers)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(deliverer.run)
                await table.written.wait()
                await deliverer.finish()
                tasks.cancel_scope.cancel()

    anyio.run(main)
    return table


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "SPACING_S", "AWAY_S"):
        monkeypatch.setattr(module, name, 0.001)


@pytest.mark.parametrize("asked_s", [1e14, float("inf"), float("nan"), -5.0])
def test_a_receiver_cannot_ask_for_a_pause_that_cannot_be_written(asked_s: float) -> None:
    table = deliver(Deliveries([delivery()]), Answers(NotDelivered("no", retry_after_s=asked_s)))
    ((_, pause_s),) = table.failed
    assert pause_s is not None
    assert 0.0 <= pause_s <= TRIED_S
    assert (pause_s == TRIED_S) == (asked_s > TRIED_S)


def test_a_number_of_any_length_is_a_long_pause_and_no_error() -> None:
    assert retry_after_s("9" * 5000) == float("inf")


def test_what_a_receiver_says_is_quoted_in_part_and_cannot_steer_a_terminal() -> None:
    error = NotDelivered("\x1b[2J\0\n\ud800" + "x" * 99999)
    table = deliver(Deliveries([delivery()]), Answers(error))
    ((why, _),) = table.failed
    assert why == "?[2J???" + "x" * (MAX_WHY - 7)


def test_a_look_that_fails_unforeseen_does_not_end_deliveries() -> None:
    table = deliver(Deliveries(RuntimeError("a bug"), [delivery()]), Answers())
    assert len(table.asked) >= 2


def test_a_claim_knows_what_is_in_flight_of_each_host_and_user() -> None:
    table = Deliveries([delivery("a:1"), delivery("a:2")])

    class UntilTheNextClaim:
        async def send(self, message: Message) -> None:
            while len(table.asked) < 2:
                await anyio.sleep(0.001)

    deliver(table, UntilTheNextClaim())
    assert table.asked[0]["users"] == {}
    assert table.asked[1]["users"] == {"default": 2}
    assert table.asked[1]["hosts"] == {"a:1": 1, "a:2": 1}


def test_names_whose_server_is_dead_hold_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as messages are sent at a time, but for one."""
    over = threading.Event()

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        if host == "dead.example":
            over.wait(30)
            raise OSError("no name server")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    resolve = Transport([])._resolve

    async def dead() -> None:
        with pytest.raises(OSError, match="no name server"):
            await resolve("dead.example", 80)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE - 1):
                tasks.start_soon(dead)
            await anyio.wait_all_tasks_blocked()
            try:
                with anyio.fail_after(10):
                    assert [str(each) for each in await resolve("live.example", 80)] == [
                        "127.0.0.1"
                    ]
            finally:
                over.set()

    anyio.run(main)
