"""The page at `/`, in a real browser, with a real API and a worker that draws.

`tests/integration/api/page` has what needs no worker.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect
from tests.support.api_and_worker import Scene, drawing
from tests.support.api_harness import running_api, running_at, until
from tests.support.browser import Visitor, open_browser, visiting
from tests.support.infrastructure import Infrastructure
from tests.support.keyboard import Keyboard
from tests.support.page import draw, png, upload, wait_ready

pytestmark = pytest.mark.timeout(600)

# Observed, because it leaves when its picture is there, which may be before the next look.
PREVIEW_IS_SEEN = """selector => new Promise((resolve, reject) => {
  const look = () => document.querySelector(selector)?.decode().then(resolve, reject);
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
  look();
  setTimeout(reject, 120_000, "no preview is seen");
})"""
# What a browser says when a tab is looked at again; the page then asks at once.
LOOKED_AT_AGAIN = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    # Forked runners: this is about the page, and a spawned one imports for seconds.
    with drawing(stack, tmp_path_factory.mktemp("page"), DF_RUNNER_START="template") as both:
        wait_ready(both.api)
        # The first job waits for the worker's imports, minutes where the machine is busy.
        wait_for(both, both.api.create(), "succeeded")
        yield both


@pytest.fixture(scope="module")
def browser(
    scene: Scene,
) -> Iterator[BrowserContext]:  # its loop would be in the way of the scene's
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visitor(browser: BrowserContext, scene: Scene) -> Iterator[Visitor]:
    with visiting(browser, scene.api) as visitor:
        yield visitor


def wait_for(scene: Scene, job: str, status: str) -> None:
    """Its end, which a busy machine may take long for; a cancel needs the memory back first."""
    until(lambda: scene.status(job) == status, f"job {job} {status}", timeout_s=240)


def hold_the_slot(scene: Scene) -> str:
    """A job that runs until it is cancelled: what is created after it waits."""
    job = scene.api.create(count=100, steps=200)
    until(lambda: scene.status(job) == "running", "it holds the slot", timeout_s=120)
    return job


def read_input(scene: Scene, id: str) -> dict[str, Any]:
    found: dict[str, Any] = scene.api.client.get(f"/v1/inputs/{id}").json()["input"]
    return found


def test_a_prompt_becomes_pictures_and_a_picture_the_next_request(visitor: Visitor) -> None:
    page = visitor.open()
    expect(page.get_by_label("What to draw")).to_be_visible()
    visitor.look("create")
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url.partition("?")[0]))
    draw(visitor, count=2, steps=2)
    expect(page.locator(".watch .tile")).to_have_count(2)
    expect(page.locator(".watch .chip")).to_have_text("succeeded")
    visitor.look("done")
    files = [url for url in loaded if url.endswith(".png")]
    assert len(files) == len(set(files)) == 2
    page.locator(".watch .tile").first.click()
    dialog = page.get_by_role("dialog")
    facts = dict(
        zip(
            dialog.locator("dt").all_inner_texts(),
            dialog.locator("dd").all_inner_texts(),
            strict=True,
        )
    )
    assert facts["Steps"] == "2"
    assert facts["Model"] == "tiny@1"
    dialog.get_by_role("button", name="Draw it again").click()
    expect(page.locator("#field-seed")).to_have_value(facts["Seed"])
    expect(page.get_by_label("What to draw")).to_have_value("a red apple")
    page.get_by_text("The same from your program").click()
    shown = page.get_by_label("The request for curl").inner_text()
    request = json.loads(shown.partition("-d '")[2].removesuffix("'"))
    assert request == {
        "type": "generate",
        "model_id": "tiny@1",
        "prompt": "a red apple",
        "seed": int(facts["Seed"]),
        "steps": 2,
    }


def test_a_running_job_is_cancelled(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, "many", count=20, steps=200)
    expect(page.locator(".watch .now")).to_contain_text("step")
    visitor.page.evaluate(PREVIEW_IS_SEEN, ".watch .preview")
    visitor.look("busy")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".watch .chip")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".watch")).to_contain_text("This job was deleted")


def test_a_failure_says_what_it_means_and_what_to_do(visitor: Visitor) -> None:
    page = visitor.open()
    draw(visitor, "in no time", timeout_s=0.01)
    failure = page.get_by_role("alert")
    expect(failure).to_contain_text("timeout")
    expect(failure).to_contain_text("longer than its timeout_s")
    expect(failure).to_contain_text("What to do: a larger timeout_s")
    visitor.look("failing")


def test_a_picture_is_drawn_and_opened_by_the_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open()
    keyboard = Keyboard(page)
    expect(page.get_by_label("What to draw")).to_be_visible()
    assert keyboard.tab() == "Skip to the content"
    keyboard.press("Enter")
    assert keyboard.tab() == "What to draw"
    page.keyboard.type("a lighthouse")
    keyboard.press("Control+Enter")
    expect(page.locator(".watch .chip")).to_have_text("succeeded")  # now nothing moves any more
    keyboard.choose("Open: a lighthouse, seed")
    expect(page.get_by_role("dialog")).to_be_visible()
    keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".watch .tile")).to_be_focused()


@pytest.mark.slow
def test_a_job_is_followed_on_after_the_api_was_restarted(
    browser: BrowserContext, stack: Infrastructure, scene: Scene
) -> None:
    blocking = hold_the_slot(scene)
    with running_api(stack.environment) as first:
        wait_ready(first)
        port = int(first.base.rpartition(":")[2])
        visitor, looker, operator = (Visitor(browser, first.base) for _ in range(3))
        page = visitor.open()
        draw(visitor, count=3)
        expect(page.locator(".log code").first).to_have_text("job.created")
        expect(operator.open("operate").locator("figure.plot")).to_have_count(5)
        expect(looker.open("pictures").locator(".gallery .tile").first).to_be_visible()
    expect(page.locator(".watch .now")).to_have_text("The API does not answer. Trying again…")
    visitor.look("away-watch")
    looker.page.get_by_role("button", name="Show").click()
    for each in (looker, operator):
        expect(each.page.get_by_role("alert")).to_contain_text("check that dreamforge up runs")
    looker.look("away-pictures")
    expect(operator.page.get_by_role("alert")).to_contain_text("What is below was read before.")
    operator.look("away-operate")
    operator.page.get_by_role("alert").evaluate("alert => { alert.title = 'told' }")
    with operator.page.expect_event("requestfailed"):
        operator.page.evaluate(LOOKED_AT_AGAIN)
    expect(operator.page.get_by_role("alert")).to_have_attribute("title", "told")  # and once only
    with running_at(port, stack.environment) as second:
        wait_ready(second)
        scene.api.client.post(f"/v1/jobs/{blocking}/cancel")
        expect(page.locator(".watch .chip")).to_have_text("succeeded")
        expect(page.locator(".watch .tile")).to_have_count(3)
        page.get_by_text("Log", exact=True).click()
        codes = page.locator(".log code").all_inner_texts()
        assert codes.count("artifact.written") == 3
        assert codes.count("job.created") == codes.count("job.finish") == 1
        looker.page.get_by_role("button", name="Try again").click()
        expect(looker.page.locator(".gallery li > *").first).to_be_focused()
        expect(operator.page.get_by_role("alert")).to_have_count(0)
        for each in (visitor, looker, operator):
            each.page.close()
    # What a browser says of an API that is away, or that begins.
    assert all(
        re.search("ERR_CONNECTION|ERR_INCOMPLETE| 503 ", complaint)
        for each in (visitor, looker, operator)
        for complaint in each.complaints
    )


def test_a_picture_with_a_painted_mask_becomes_the_next_one(visitor: Visitor, scene: Scene) -> None:
    page = visitor.open()
    page.locator("#start-picture").set_input_files(upload("a.png", 64))
    page.get_by_role("button", name="Paint a mask").click()
    canvas = page.locator(".mask canvas")
    canvas.click()
    visitor.look("mask")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    expect(canvas).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    draw(visitor)
    expect(page.locator(".watch .tile")).to_have_count(1)
    job = page.locator(".watch a code").inner_text()
    request = scene.api.client.get(f"/v1/jobs/{job}").json()["request"]
    found = [read_input(scene, request[name]) for name in ("image", "mask")]
    assert [(each["width"], each["height"]) for each in found] == [(64, 64), (64, 64)]
    assert found[0]["sha256"] == hashlib.sha256(png(64)).hexdigest() != found[1]["sha256"]
    page.locator(".watch .tile").click()
    page.get_by_role("dialog").get_by_role("button", name="Start from it").click()
    expect(page.locator(".start")).to_contain_text("A picture of yours")


def test_operators_see_workers_what_waits_and_what_failed(visitor: Visitor, scene: Scene) -> None:
    failed = scene.api.create(timeout_s=0.01, prompt="in no time")
    wait_for(scene, failed, "failed")
    runs = hold_the_slot(scene)
    waits = scene.api.create(priority="low")
    page = visitor.open("operate")
    expect(page.locator(".slots li")).to_have_count(1)
    expect(page.get_by_label("Queue")).to_contain_text("low")
    expect(page.locator(".panel.row").first).to_contain_text("timeout")
    for name in ("Pictures, last hour", "Wait for a slot", "Pictures, by day", "Running, by day"):
        expect(page.get_by_role("img", name=re.compile(name))).to_be_visible()
    visitor.look("operate")
    expect(page.locator(".slots a")).to_have_attribute("href", f"#/jobs/{runs}")
    for job in (waits, runs):
        scene.api.client.post(f"/v1/jobs/{job}/cancel")
