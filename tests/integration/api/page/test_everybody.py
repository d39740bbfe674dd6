"""The page: how it is served, and for whom."""

from __future__ import annotations

import hashlib
import re

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from tests.support.api_harness import Api, running_api
from tests.support.browser import Visitor
from tests.support.infrastructure import Infrastructure
from tests.support.page import apart, draw, finish, finish_failed, wait_ready

pytestmark = pytest.mark.timeout(600)

KEY = "a key of a test"
RIGHT_TO_LEFT = "תפוח אדום על שולחן"
ODD_PROMPTS = (RIGHT_TO_LEFT, "w" * 400, "a very red apple " * 110)
# Keeps how the page moves to what is new.
SCROLLS = """() => {
  window.scrolls = [];
  Element.prototype.scrollIntoView = ({ behavior }) => scrolls.push(behavior);
}"""


def test_the_page_forbids_code_and_hosts_that_are_not_its_own(api: Api) -> None:
    answer = api.client.get("/")
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == f"'self' blob: {api.settings.s3_endpoint}"
    assert not re.search(r"<style|\son\w+=|style=|<script(?! type=\"module\" src)", answer.text)


def test_a_browser_asks_for_a_file_once(api: Api) -> None:
    for name in ("/", "/page/app.js", "/page/page.css"):
        first = api.client.get(name)
        again = api.client.get(name, headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    for name in ("/page/nothing.js", "/page/index.html", "/page/..%2Fserve.py"):
        assert api.client.get(name).status_code == 404


def test_without_a_model_it_says_how_to_get_one(visitor: Visitor) -> None:
    visitor.page.route("**/v1/models", lambda route: route.fulfill(json={"models": []}))
    page = visitor.open()
    expect(page.locator(".empty")).to_contain_text("dreamforge model download")
    visitor.look("no-model")


def test_an_api_that_is_away_is_told_and_tried_again(visitor: Visitor) -> None:
    visitor.page.route("**/v1/*", lambda route: route.abort())
    page = visitor.open()
    expect(page.get_by_role("alert")).to_contain_text("check that dreamforge up runs")
    visitor.look("away")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_label("What to draw")).to_be_visible()
    visitor.complaints.clear()  # the browser logs what was aborted


def fits(page: Page) -> bool:
    """Whether nothing is wider than the screen, a dialog's content included."""
    wide = "each => each.scrollWidth > each.clientWidth"
    fitting: bool = page.evaluate(
        f"() => ![document.documentElement, ...document.querySelectorAll('dialog')].some({wide})"
    )
    return fitting


# 320 px is the narrowest phone, and what is left of 1280 at 400 %.
@pytest.mark.parametrize("width", [320, 640])
def test_odd_prompts_and_names_fit_on_every_screen(visitor: Visitor, api: Api, width: int) -> None:
    name = "a-model-with-a-name-that-nobody-would-ever-want-to-read-on-a-phone"
    api.sql("UPDATE models SET name = %s", name)
    jobs = [api.create(prompt=prompt) for prompt in ODD_PROMPTS]
    finish(api, jobs[0])
    finish_failed(api, jobs[1])
    visitor.page.set_viewport_size({"width": width, "height": 640})
    for look, section, ready in (
        ("create", "create", ".form"),
        ("operate", "operate", "figure.plot"),
        ("one-word", f"jobs/{jobs[1]}", ".failure"),
        ("long", f"jobs/{jobs[2]}", ".watch .chip"),
        ("pictures", "pictures", ".gallery .tile"),
    ):
        page = visitor.open(section)
        expect(page.locator(ready).first).to_be_visible()
        visitor.look(f"{look}-{width}")
        assert fits(page), f"{section} scrolls sideways"
    expect(page.locator(".card .prompt").nth(1)).to_have_css("direction", "ltr")
    page.locator(".gallery .tile").click()
    dialog = page.get_by_role("dialog", name="Picture")
    expect(dialog.get_by_role("heading")).to_have_text(RIGHT_TO_LEFT)
    expect(dialog.get_by_role("heading")).to_have_css("direction", "rtl")
    visitor.look(f"picture-{width}")
    assert fits(page), "the dialog scrolls sideways"


def test_a_key_is_asked_for_once_and_stays_in_the_tab(
    browser: BrowserContext, stack: Infrastructure, api: Api
) -> None:
    keys = f"ada:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with running_api(stack.environment, api_keys=keys, admin_keys="ada") as closed:
        wait_ready(closed, KEY)
        visitor = Visitor(browser, closed.base)
        page = visitor.open()
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill("another one")
        dialog.get_by_label("Key").press("Enter")
        expect(dialog).to_contain_text("this API key is not known")
        visitor.look("key")
        dialog.get_by_label("Key").fill(KEY)
        dialog.get_by_role("button", name="Use this key").click()
        expect(page.get_by_label("What to draw")).to_be_visible()
        visitor.page.reload()
        expect(page.get_by_label("What to draw")).to_be_visible()
        draw(visitor)
        finish(api, page.locator(".watch a code").inner_text())
        expect(page.locator(".watch .tile")).to_have_count(1)
        shown = page.get_by_label("The request for curl").text_content() or ""
        assert "$DF_API_KEY" in shown
        assert KEY not in shown
        other = page.context.new_page()
        other.goto(closed.base)
        expect(other.get_by_role("dialog", name="API key")).to_be_visible()
        hold_a_slot(api)  # of the user "default"
        visitor.open("operate")
        expect(page.locator(".slots li")).to_contain_text("another's job")
        expect(page.locator(".slots a")).to_have_count(0)
        page.get_by_role("button", name="Forget key").click()
        expect(dialog).to_be_visible()
        visitor.page.close()


def hold_a_slot(api: Api) -> None:
    """A worker that lives for an hour, whose slot has a job."""
    job = api.create()
    apart(lambda: api.worker())
    api.sql(
        "UPDATE workers SET heartbeat_at = now() + interval '1 hour', slots = jsonb_build_array("
        """slots->0 || '{"state": "held"}' || jsonb_build_object('job_id', %s::text))""",
        job,
    )


def test_below_a_path_of_a_proxy_nothing_leaves_it(visitor: Visitor) -> None:
    asked: list[str] = []

    def strip(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(response=route.fetch(url=route.request.url.replace("/forge/", "/")))

    visitor.page.route("**/*", strip)
    page = visitor.page
    page.goto(f"{visitor.base}/forge/")
    expect(page.get_by_label("What to draw")).to_be_visible()
    assert all(url.startswith(f"{visitor.base}/forge/") for url in asked)
    assert f"{visitor.base}/forge/v1/models" in asked
    page.unroute_all(behavior="wait")


def test_what_is_shown_stays_quiet_where_motion_is_not_wanted(visitor: Visitor) -> None:
    visitor.page.emulate_media(reduced_motion="reduce")
    page = visitor.open()
    style = page.evaluate(
        "() => { const e = document.createElement('p'); e.className = 'skeleton';"
        " document.body.append(e); return getComputedStyle(e).animationName; }"
    )
    assert style == "none"
    expect(page.get_by_label("What to draw")).to_be_visible()
    page.evaluate(SCROLLS)
    draw(visitor)
    expect(page.locator(".watch .chip")).to_have_text("queued")
    assert page.evaluate("scrolls") == ["instant"]
    visitor.page.close()
