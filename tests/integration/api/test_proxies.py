"""A stream whose connection is cut by what stands between API and client, at any byte."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.support.api_harness import Api, running_api
from tests.support.cutting_proxy import Fate, cutting_proxy

from cli.client.http import Client
from dreamforge_client import exchange

EVENTS = 60


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENCE_S", 0.3)
    monkeypatch.setattr(exchange, "FIRST_PAUSE_S", 0.01)


def followed(api: Api, job: str, fates: list[tuple[Fate, int]]) -> tuple[list[int], list[Fate]]:
    """The ids that a client sees of a job that a worker is at, and what its connections met."""

    def work() -> None:
        for step in range(EVENTS):
            api.progress(job, step / EVENTS, item_index=0, item_progress=step / EVENTS)
        api.finish(job)

    worker = threading.Thread(target=work)
    worker.start()
    with cutting_proxy(api.base, fates) as proxy, Client(proxy.base) as client:
        seen = [event["seq"] for event in client.stream(job)]
    worker.join(60)
    return seen, proxy.met


@pytest.mark.parametrize("fate", list(Fate))
def test_a_cut_at_any_byte_loses_nothing_and_repeats_nothing(api: Api, fate: Fate) -> None:
    # From within the head, over the middle of an event, to several events; a prime apart, so that
    # they fall on every part of a message.
    places = range(40, 2000, 211)
    seen, met = followed(api, api.create(), [(fate, place) for place in places])
    assert seen == list(range(1, 1 + EVENTS + 2 + 1))
    assert met == [fate] * len(met)
    assert len(met) >= 5


def test_ends_of_every_kind_one_after_the_other(api: Api) -> None:
    fates = [(fate, place) for place in (300, 700, 1100) for fate in Fate]
    seen, met = followed(api, api.create(), fates)
    assert seen == list(range(1, 1 + EVENTS + 2 + 1))
    assert set(met) == set(Fate)
