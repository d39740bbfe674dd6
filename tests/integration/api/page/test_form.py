"""The page: the form."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect
from tests.support.api_harness import Api, running_api
from tests.support.browser import Visitor, visiting
from tests.support.infrastructure import Infrastructure
from tests.support.page import apart, draw, finish, upload, wait_ready

from shared.models.descriptor import Capability

pytestmark = pytest.mark.timeout(600)


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
