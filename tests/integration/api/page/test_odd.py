"""The page: requests, answers and keys that are not the usual ones."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any

import PIL.Image
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from tests.support.api_harness import Api, running_api
from tests.support.browser import Visitor
from tests.support.infrastructure import Infrastructure
from tests.support.page import apart, draw, finish, gallery, png, upload, wait_ready

pytestmark = pytest.mark.timeout(600)

MODEL = "tiny@1"
ID = "00000000-0000-4000-8000-000000000000"
KEPT = "dreamforge.draft"  # what the form starts with, in the tab's store
REFUSAL = {"code": "invalid_input", "correlation_id": None}
ORIENTATION = 0x0112


def start_with(visitor: Visitor, request: dict[str, Any]) -> Page:
    """The form, as "Draw again" of a job with this request fills it."""
    usual = {"type": "generate", "prompt": "a red apple", "model_id": MODEL}
    text = json.dumps(json.dumps(usual | request))
    visitor.page.add_init_script(f"sessionStorage.setItem('{KEPT}', {text})")
    return visitor.open()


def sent_by(visitor: Visitor) -> dict[str, Any]:
    """The request that the form sends; nothing comes of it."""
    page = visitor.page
    page.route("**/v1/jobs", lambda route: refuse(route, []))
    with page.expect_request("**/v1/jobs") as sent:
        page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/v1/jobs")
    visitor.complaints.clear()  # the browser logs every 422
    request: dict[str, Any] = json.loads(sent.value.post_data or "")
    return request


def refuse(route: Route, errors: list[dict[str, str]]) -> None:
    body = REFUSAL | {"message": "the request is refused", "details": {"errors": errors}}
    route.fulfill(status=422, json=body)


@pytest.mark.parametrize(
    "request_",
    [
        {"tags": {"place": "Paris, France", "said": '"yes"', "odd": " a\nb=c ", "none": ""}},
        {"image": ID, "mask": ID, "mask_rule": "transparent"},
        {"chain": {"upscale": {"scale": 2, "impl": "resample", "strict_scale": True}}},
        {"chain": {"upscale": {"scale": 2}}},
    ],
    ids=["tags", "mask_rule", "strict_scale", "by default"],
)
def test_a_request_that_is_drawn_again_is_the_same(
    request_: dict[str, Any], visitor: Visitor
) -> None:
    start_with(visitor, request_)
    sent = sent_by(visitor)
    assert {name: sent.get(name) for name in request_} == request_


def test_a_request_without_an_enlarging_and_one_of_a_model_that_is_gone_are_taken_over(
    visitor: Visitor,
) -> None:
    page = start_with(visitor, {"chain": {"upscale": None}, "model_id": "gone@1"})
    expect(page.locator("#field-model_id-problem")).to_contain_text("gone@1 is not here any more")
    visitor.look("gone")
    assert sent_by(visitor)["model_id"] == MODEL
    expect(page.locator("#field-model_id-problem")).to_be_hidden()


def test_a_refusal_of_the_model_stands_at_its_field(visitor: Visitor, api: Api) -> None:
    page = visitor.open()
    expect(page.get_by_label("Model")).to_be_visible()
    api.sql("UPDATE models SET name = 'another'")
    draw(visitor)
    expect(page.locator("#field-model_id")).to_be_focused()
    expect(page.locator("#field-model_id")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-model_id-problem")).to_have_text(
        "no such model; GET /v1/models lists what there is"
    )
    expect(page.get_by_role("alert")).to_have_count(0)
    visitor.look("refused-model")
    visitor.complaints.clear()  # the browser logs every refusal


def test_a_refusal_of_a_file_stands_where_it_is_chosen(visitor: Visitor) -> None:
    page = visitor.open()
    odd = {"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF89a" + bytes(40)}
    page.locator("#start-picture").set_input_files(odd)  # type: ignore[arg-type]
    draw(visitor)
    expect(page.locator("#start-problem")).to_contain_text("no PNG, JPEG or WebP")
    expect(page.get_by_role("alert")).to_have_count(0)
    visitor.complaints.clear()  # the browser logs every 422


def test_a_refusal_of_a_field_that_is_not_here_is_shown_whole(visitor: Visitor) -> None:
    page = visitor.open()
    errors = [
        {"field": "count", "message": "too many"},
        {"field": "loras.0.model_id", "message": "it does not fit"},  # no LoRA is offered
    ]
    page.route("**/v1/jobs", lambda route: refuse(route, errors))
    draw(visitor)
    expect(page.locator("#field-count-problem")).to_have_text("too many")
    expect(page.get_by_role("alert")).to_contain_text("the request is refused")
    page.get_by_text("Details", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("it does not fit")
    visitor.complaints.clear()  # the browser logs every 422


def test_a_mask_that_was_cleared_is_not_sent(visitor: Visitor) -> None:
    page = visitor.open()
    page.locator("#start-picture").set_input_files(upload("0.png", 64))
    page.get_by_role("button", name="Paint a mask").click()
    page.locator(".mask canvas").click()
    page.get_by_label("What to draw").fill("a red apple")
    assert {"image", "mask"} <= set(sent_by(visitor))
    page.get_by_role("button", name="Clear").click()
    assert "mask" not in sent_by(visitor)


PASTE = """(place, [text, name, type]) => {
  const data = new DataTransfer();
  if (text) data.setData("text/plain", text);
  if (name) data.items.add(new File(["x"], name, { type }));
  const options = { clipboardData: data, bubbles: true, cancelable: true };
  const event = new ClipboardEvent("paste", options);
  place.dispatchEvent(event);
  return event.defaultPrevented;
}"""


def test_a_picture_that_is_pasted_as_a_data_address_is_taken(visitor: Visitor, api: Api) -> None:
    page = visitor.open()
    prompt = page.get_by_label("What to draw")
    address = "data:image/png;base64," + base64.b64encode(png(64)).decode()
    for text in ("a red apple", "data:text/html,<b>", "data:image/png;base64,a"):
        assert not prompt.evaluate(PASTE, [text, "", ""])
    expect(page.get_by_role("button", name="Remove")).to_have_count(0)
    assert prompt.evaluate(PASTE, [address, "", ""]), "it is no prompt"
    expect(page.get_by_role("img", name="The picture to start from")).to_be_visible()
    prompt.fill("a red apple")
    found = api.client.get(f"/v1/inputs/{sent_by(visitor)['image']}").json()["input"]
    assert (found["format"], found["width"]) == ("png", 64)


def test_a_file_that_is_no_picture_is_told_where_one_is_chosen(visitor: Visitor) -> None:
    page = visitor.open()
    for name, type_ in (("letter.pdf", "application/pdf"), ("photo.heic", "")):
        page.get_by_label("What to draw").evaluate(PASTE, ["", name, type_])
        expect(page.locator("#start-problem")).to_contain_text("no picture")
        page.locator("#start-picture").set_input_files(upload("0.png", 16))
        expect(page.locator("#start-problem")).to_be_hidden()
        page.get_by_role("button", name="Remove").click()


def test_a_message_of_a_stream_that_is_no_json_ends_nothing(visitor: Visitor, api: Api) -> None:
    job = api.create()
    body = 'event: log\nid: 1\ndata: {"ts": "2026-\n\n'

    def broken(route: Route) -> None:
        route.fulfill(body=body, content_type="text/event-stream")

    visitor.page.route("**/progress/stream", broken, times=1)
    with visitor.page.expect_request(lambda request: request.headers.get("last-event-id") == "1"):
        page = visitor.open(f"jobs/{job}")
    finish(api, job)
    expect(page.locator(".watch .chip")).to_have_text("succeeded")


def test_a_picture_that_was_refused_is_sent_anew(visitor: Visitor, api: Api) -> None:
    """It may have been past its age."""
    page = visitor.open()
    page.locator("#start-picture").set_input_files(upload("0.png", 64))
    page.get_by_label("What to draw").fill("a red apple")
    first = sent_by(visitor)["image"]
    api.sql("DELETE FROM inputs")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#start-problem")).to_contain_text("no such input")
    visitor.complaints.clear()  # the browser logs every 422
    assert sent_by(visitor)["image"] != first


def test_what_is_painted_on_a_turned_webp_lies_where_it_was_painted(
    visitor: Visitor, api: Api
) -> None:
    """The API turns it as its EXIF says; this browser shows it as it is stored."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    file = io.BytesIO()
    PIL.Image.new("RGB", (64, 32), "blue").save(file, "WEBP", exif=exif.tobytes())
    page = visitor.open()
    turned = {"name": "a.webp", "mimeType": "image/webp", "buffer": file.getvalue()}
    page.locator("#start-picture").set_input_files(turned)  # type: ignore[arg-type]
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator(".mask canvas")
    canvas.click()
    shown = canvas.evaluate("canvas => [canvas.width, canvas.height]")
    page.get_by_label("What to draw").fill("a red apple")
    request = sent_by(visitor)
    found = [api.client.get(f"/v1/inputs/{request[n]}").json()["input"] for n in ("image", "mask")]
    assert [[each["width"], each["height"]] for each in found] == [shown, shown]


def test_a_schema_of_another_release_is_drawn(visitor: Visitor, api: Api) -> None:
    listed = api.client.get("/v1/models").json()
    (model,) = listed["models"]
    properties = model["parameters_schema"]["properties"]
    properties["steps"] = {"enum": [1, 4, 8], "default": 4}
    properties["count"] = {"type": ["integer", "null"], "minimum": 1, "maximum": 4}
    nothing = model | {"id": "a", "name": "plain", "parameters_schema": {"type": "object"}}
    visitor.page.route(
        "**/v1/models", lambda route: route.fulfill(json=listed | {"models": [model, nothing]})
    )
    page = visitor.open()
    page.get_by_label("What to draw").fill("a red apple")
    page.get_by_label("Steps", exact=True).select_option("8")
    page.locator("#field-count").fill("2")
    sent = sent_by(visitor)
    assert (sent["steps"], sent["count"]) == (8, 2)
    page.get_by_label("Model").select_option("a")
    expect(page.locator("#field-width")).to_be_visible()  # what the API takes for every model


def login(route: Route) -> None:
    route.fulfill(body="<html>sign in", content_type="text/html")


def test_another_servers_page_in_place_of_an_answer_is_told_and_tried_again(
    visitor: Visitor,
) -> None:
    page = visitor.page
    page.route("**/v1/jobs?*", login)
    visitor.open("pictures")
    expect(page.get_by_role("alert")).to_contain_text("Something before the API answered 200")
    page.unroute("**/v1/jobs?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".foot")).to_contain_text("No pictures yet")


def test_a_job_is_followed_beyond_answers_that_are_none(visitor: Visitor, api: Api) -> None:
    job = api.create()
    page = visitor.open(f"jobs/{job}")
    expect(page.locator(".watch .chip")).to_have_text("queued")
    page.route(f"**/v1/jobs/{job}", login)
    finish(api, job)
    expect(page.locator(".watch .now")).to_contain_text("The API does not answer")
    page.unroute(f"**/v1/jobs/{job}")
    expect(page.locator(".watch .chip")).to_have_text("succeeded")


def test_a_job_that_has_ended_is_read_once_whatever_is_in_its_log(
    visitor: Visitor, api: Api
) -> None:
    job = api.create(count=12)
    apart(lambda: [api.artifact(job, index, png(16)) for index in range(12)])
    apart(lambda: api.finish(job))
    reads: list[str] = []
    visitor.page.on("request", lambda request: reads.append(request.url.rpartition("/")[2]))
    page = visitor.open(f"jobs/{job}")
    page.get_by_text("Log", exact=True).click()
    expect(page.locator(".log code", has_text="job.finish")).to_have_count(1)
    expect(page.locator(".watch .tile")).to_have_count(12)
    assert reads.count("artifacts") < 12


def test_a_job_that_is_deleted_while_a_page_loads_is_left_out(visitor: Visitor, api: Api) -> None:
    gone, _ = gallery(api, 2)
    body: dict[str, Any] = {"code": "not_found", "message": "no such job", "details": {}}
    visitor.page.route(
        f"**/v1/jobs/{gone}/artifacts", lambda route: route.fulfill(status=404, json=body)
    )
    page = visitor.open("pictures")
    expect(page.locator(".gallery .tile")).to_have_count(1)
    expect(page.locator(".foot")).to_contain_text("That is all there is.")
    visitor.complaints.clear()  # the browser logs every 404


KEY = "clé-ключ-钥匙"  # a browser refuses to send it as it is
NEXT = "the next one"


def test_a_key_of_any_letters_is_sent_and_one_that_is_not_given_is_not_asked_for_again(
    browser: BrowserContext, stack: Infrastructure
) -> None:
    keys = ",".join(f"ada:{hashlib.sha256(each.encode()).hexdigest()}" for each in (KEY, NEXT))
    with running_api(stack.environment, api_keys=keys, admin_keys="ada") as closed:
        wait_ready(closed, NEXT)
        visitor = Visitor(browser, closed.base)
        visitor.page.clock.install()
        page = visitor.open("operate")
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill("“another one”")
        dialog.get_by_label("Key").press("Enter")
        expect(dialog).to_contain_text("this API key is not known")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_label("Key").press("Enter")
        expect(page.get_by_role("heading", name="Workers")).to_be_visible()
        # It is taken back: what asks by itself asks once, until the user wants another try.
        page.route("**/v1/**", without_key)
        page.clock.run_for(6_000)
        dialog.get_by_role("button", name="Not now").click()
        alert = page.get_by_role("alert").filter(has_text="unauthorized").first
        expect(alert).to_be_visible()
        for _ in range(3):
            with page.expect_response("**/v1/workers"):
                page.clock.run_for(6_000)
        expect(dialog).to_have_count(0)
        page.unroute("**/v1/**")
        alert.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("alert")).to_have_count(0)
        page.close()


def without_key(route: Route) -> None:
    headers = route.request.headers
    route.continue_(headers={name: headers[name] for name in headers if name != "authorization"})
