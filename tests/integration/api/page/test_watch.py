"""The page: a job that is watched, and what is said of it."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Route, expect
from tests.support.api_harness import Api
from tests.support.browser import Visitor
from tests.support.page import apart, finish, finish_failed

pytestmark = pytest.mark.timeout(600)

# Keeps what a screen reader is given, with its time in ms.
LISTEN = """() => {
  const spoken = (window.spoken = []);
  const keep = (place) => new MutationObserver(() =>
    spoken.push([performance.now(), place.getAttribute("role"), place.textContent])
  ).observe(place, { childList: true, characterData: true, subtree: true });
  keep(document.getElementById("status"));
}"""


def test_a_broken_stream_goes_on_after_its_last_event(visitor: Visitor, api: Api) -> None:
    job = api.create()
    resumed: list[str | None] = []

    def cut(route: Route) -> None:
        last = route.request.headers.get("last-event-id")
        resumed.append(last)
        if len(resumed) > 1:
            route.continue_()
            return
        event = {"ts": "2026-01-31T12:00:00Z", "level": "INFO", "code": "x", "message": "seen"}
        body = f"event: log\ndata: {json.dumps(event | {'payload': None})}\nid: 1\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    visitor.page.route("**/progress/stream", cut)
    page = visitor.open(f"jobs/{job}")
    finish(api, job)
    expect(page.locator(".watch .chip")).to_have_text("succeeded")
    page.get_by_text("Log", exact=True).click()
    expect(page.locator(".log code", has_text="job.finish")).to_have_count(1)
    codes = page.locator(".log code").all_inner_texts()
    assert resumed[:2] == [None, "1"]
    assert codes[0] == "x"
    assert "job.created" not in codes  # it is the first


def test_progress_and_end_are_said_politely_and_seldom(visitor: Visitor, api: Api) -> None:
    page = visitor.open()
    page.evaluate(LISTEN)
    page.get_by_label("What to draw").fill("a red apple")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#status")).to_have_text("The job waits for a slot.")
    job = page.locator(".watch a code").inner_text()
    api.lease(job)
    apart(lambda: api.progress(job, *(n / 100 for n in range(1, 60))))
    expect(page.locator(".watch .now")).to_contain_text("59 %")
    finish(api, job)
    expect(page.locator("#status")).to_contain_text("The job succeeded: 1 picture of 1")
    spoken = page.evaluate("spoken")
    texts = [text for _, _, text in spoken]
    assert texts[0] == "The job waits for a slot."
    assert texts[1].startswith("1 %"), "its beginning is said"
    assert len(texts) == 3, "59 events came within a moment"
    assert {role for _, role, _ in spoken} == {"status"}, "it waits for what is being read"


def test_a_failed_job_says_what_to_do(visitor: Visitor, api: Api) -> None:
    job = api.create(prompt="תפוח אדום על שולחן")
    finish_failed(api, job)
    page = visitor.open(f"jobs/{job}")
    expect(page.get_by_role("alert")).to_contain_text("What to do: a larger timeout_s")
    expect(page.locator(".watch h2")).to_have_css("direction", "rtl")
    visitor.look("failed-job")
