"""The page: what operators look at."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from tests.support.api_harness import Api
from tests.support.browser import Visitor
from tests.support.keyboard import Keyboard
from tests.support.page import finish_failed

from shared.dispatch.dead_letters import DeadMessages, dead_message

pytestmark = pytest.mark.timeout(600)


def dead_job(api: Api) -> str:
    """One that used all its attempts, and whose receiver took nothing."""
    job = api.create(prompt="a cursed apple")
    api.client.post(f"/v1/jobs/{job}/cancel")
    last = {"code": "runner_crashed", "message": "the runner ended by signal 11"}
    error = {"code": "attempts_exhausted", "message": "given up", "details": {"last_error": last}}
    api.sql(
        "UPDATE jobs SET status = 'failed', reason = 'attempts_exhausted', error = %s,"
        """ webhook = '{"url": "https://shop.example.org/", "events": ["end"]}' WHERE id = %s""",
        json.dumps(error),
        job,
    )
    api.sql(
        'INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state, last_error,'
        " expires_at, ended_at) VALUES (%s, 1, 'default', 'shop.example.org', 'end', '{}', 'dead',"
        " 'it answered 500', now(), now())",
        job,
    )
    return job


@pytest.fixture
def message(api: Api) -> Iterator[None]:
    """One on the broker that no worker can read."""
    messages = DeadMessages(api.settings.redis_url.get_secret_value())
    messages.add(dead_message(queue="default", reason="it is no JSON", body=b"{"))
    yield
    for each in messages.all():
        messages.drop(each.id)
    messages.close()


def test_nothing_yet_is_said_and_not_left_blank(visitor: Visitor) -> None:
    page = visitor.open("operate")
    expect(page.locator("figure.plot")).to_have_count(5)
    for name, text in {
        "Workers": "No worker lives",
        "Queue": "Nothing waits.",
        "Dead letters": "Nothing was given up.",
        "Failures": "Nothing has failed.",
    }.items():
        expect(page.get_by_label(name, exact=True)).to_contain_text(text)
    visitor.look("operate-empty")


@pytest.mark.usefixtures("message")
def test_the_keyboard_alone_replays_what_was_given_up(visitor: Visitor, api: Api) -> None:
    job = dead_job(api)
    page = visitor.open("operate")
    dead = page.get_by_label("Dead letters")
    expect(dead.locator(".panel.row code")).to_have_text(["job", "webhook", "message"])
    visitor.look("dead-letters")
    expect(page.locator("figure.plot")).to_have_count(5)  # now nothing moves any more
    keyboard = Keyboard(page)
    keyboard.choose("Replay the webhook")
    expect(dead.locator(".panel.row code")).to_have_text(["job", "message"])
    expect(dead.get_by_role("heading")).to_be_focused()  # the row is gone
    expect(page.locator("#status")).to_have_text("The webhook is on its way again.")
    assert api.sql("SELECT state FROM deliveries") == [("waiting",)]
    keyboard.choose("Replay the job")
    expect(dead.get_by_role("link", name="Replayed")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator(".watch .chip")).to_have_text("queued")
    expect(page.locator("main")).to_be_focused()
    again = page.locator(".watch a code").inner_text()
    assert api.sql("SELECT replay_of::text FROM jobs WHERE id = %s", again) == [(job,)]


def test_a_failure_is_tried_again_by_the_keyboard_alone(visitor: Visitor, api: Api) -> None:
    job = api.create(prompt="in no time")
    finish_failed(api, job)
    page = visitor.open("operate")
    expect(page.get_by_label("Failures").locator(".panel.row")).to_have_count(1)
    expect(page.locator("figure.plot")).to_have_count(5)  # now nothing moves any more
    keyboard = Keyboard(page)
    keyboard.go_to("Look")
    assert keyboard.tab() == "Draw again"
    page.route(f"**/v1/jobs/{job}", lambda route: route.abort())
    keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The API did not answer.")
    page.unroute_all()
    keyboard.press("Enter")
    expect(page.get_by_label("What to draw")).to_have_value("in no time")
    visitor.complaints.clear()  # the browser logs what was aborted
