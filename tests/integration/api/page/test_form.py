"""The page: the form, and a job that is watched."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Route, expect
from tests.support.api_harness import Api, running_api
from tests.support.browser import Visitor, visiting
from tests.support.infrastructure import Infrastructure
from tests.support.page import apart, draw, finish, finish_failed, upload, wait_ready

from shared.models.descriptor import Capability

pytestmark = pytest.mark.timeout(600)

# Keeps what a screen reader is given, with its time in ms.
LISTEN = """() => {
  const spoken = (window.spoken = []);
  const keep = (place) => new MutationObserver(() =>
    spoken.push([performance.now(), place.getAttribute("role"), place.textContent])
  ).observe(place, { childList: true, characterData: true, subtree: true });
  keep(document.getElementById("status"));
}"""


def test_a_refusal_is_shown_at_its_field(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, count=101)
    field = page.locator("#field-count")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-count-problem")).to_contain_text("less than or equal to 100")
    visitor.complaints.clear()  # the browser logs every 422


def test_an_edit_model_takes_several_pictures_in_their_order(visitor: Visitor, api: Api) -> None:
    both: tuple[Capability, ...] = ("generate", "edit")
    apart(lambda: api.install(name="editor", capabilities=both, references=2))
    page = visitor.open()
    page.get_by_label("Model").select_option(label="editor 1 (on no live worker)")
    expect(page.get_by_text("Start from a picture")).to_have_count(0)
    for name, side in (("0.png", 32), ("1.png", 64)):
        page.locator("#references").set_input_files(upload(name, side))
    expect(page.locator(".references img")).to_have_count(2)
    expect(page.locator("#references")).to_have_count(0)  # it takes no more
    visitor.look("references")
    page.get_by_role("button", name="Remove picture 1").click()
    expect(page.locator("#references")).to_be_focused()  # what was pressed is gone
    page.locator("#references").set_input_files(upload("2.png", 16))
    with page.expect_request("**/v1/jobs") as sent:
        draw(visitor)
    request = json.loads(sent.value.post_data or "")
    found = [api.client.get(f"/v1/inputs/{each}").json()["input"] for each in request["images"]]
    assert [each["width"] for each in found] == [64, 16]
    assert not {"image", "mask", "strength"} & set(request)
    expect(page.locator(".watch .chip")).to_have_text("queued")


def test_a_model_that_only_edits_asks_for_its_picture(visitor: Visitor, api: Api) -> None:
    apart(lambda: api.install(name="editor", capabilities=("edit",), references=1))
    page = visitor.open()
    page.get_by_label("Model").select_option(label="editor 1 (on no live worker)")
    draw(visitor)
    expect(page.locator("#start-problem")).to_contain_text("picture")
    expect(page.locator("#references")).to_be_focused()
    visitor.look("edits only")
    visitor.complaints.clear()  # the browser logs every 422
    page.locator("#references").set_input_files(upload("0.png", 32))
    draw(visitor)
    expect(page.locator("#start-problem")).to_be_hidden()
    expect(page.locator(".watch .chip")).to_have_text("queued")


def test_loras_of_the_models_family_are_picked_with_their_strength(
    visitor: Visitor, api: Api
) -> None:
    listed = api.client.get("/v1/models").json()
    (model,) = listed["models"]
    fitting = model | {"kind": "lora", "family": "sd", "capabilities": []}
    listed["models"] = [
        model | {"capabilities": [*model["capabilities"], "lora"]},
        fitting | {"id": "a", "name": "paper-cut"},
        fitting | {"id": "b", "name": "ink"},
        fitting | {"id": "c", "name": "oil", "family": "sdxl"},
    ]
    visitor.page.route("**/v1/models", lambda route: route.fulfill(json=listed))
    page = visitor.open()
    pick = page.get_by_label("LoRAs")
    expect(pick.locator("option")).to_have_text(["add one", "paper-cut@1", "ink@1"])
    pick.select_option("ink@1")
    pick.select_option("paper-cut@1")
    expect(pick).to_be_disabled()
    page.get_by_label("Strength of paper-cut@1").fill("0.6")
    visitor.look("loras")
    page.get_by_role("button", name="Remove ink@1").click()
    expect(pick).to_be_focused()
    with page.expect_request("**/v1/jobs") as sent:
        draw(visitor)
    request = json.loads(sent.value.post_data or "")
    assert request["loras"] == [{"model_id": "paper-cut@1", "scale": 0.6}]
    refused = page.locator("#field-loras-problem:not([hidden])").or_(page.get_by_role("alert"))
    expect(refused).to_be_visible()
    visitor.complaints.clear()  # the browser logs every 422


def test_a_receiver_is_named_and_a_refusal_of_it_stands_at_its_field(
    visitor: Visitor, browser: BrowserContext, stack: Infrastructure
) -> None:
    page = visitor.open()
    draw(visitor, webhook="https://shop.example.org/hook")
    expect(page.locator("#field-webhook")).to_be_focused()
    expect(page.locator("#field-webhook-problem")).to_contain_text("DF_WEBHOOK_SECRETS")
    visitor.complaints.clear()  # the browser logs every 422
    secret = "default:whsec_" + base64.b64encode(b"a secret of a test, long enough").decode()
    allowed: dict[str, Any] = {"webhook_secrets": secret, "webhook_private": "127.0.0.1/32"}
    with running_api(stack.environment, **allowed) as api, visiting(browser, api) as other:
        wait_ready(api)
        page = other.open()
        page.get_by_text("More", exact=True).click()
        page.locator("#field-webhook").fill("http://127.0.0.1:1/hook")
        page.get_by_label("start", exact=True).check()
        other.look("webhook")
        draw(other)
        job = page.locator(".watch a code").inner_text()
        request = api.client.get(f"/v1/jobs/{job}").json()["request"]
        assert request["webhook"] == {"url": "http://127.0.0.1:1/hook", "events": ["start", "end"]}
        finish(api, job)
        expect(page.locator(".watch .chip")).to_have_text("succeeded")
        page.get_by_label("What to draw").fill("something else")
        page.locator("#field-webhook").fill("")
        page.get_by_role("button", name="Draw again").click()
        expect(page.locator("#field-webhook")).to_have_value("http://127.0.0.1:1/hook")
        expect(page.get_by_label("What to draw")).to_have_value("a red apple")
        expect(page.locator(".watch .tile")).to_have_count(1)  # what was drawn is still there


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
