"""The page: pictures, newest first, and one of them large."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.support.api_harness import Api
from tests.support.browser import Visitor
from tests.support.keyboard import Keyboard
from tests.support.page import gallery

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_hundred_pictures_are_paged_by_the_cursor(visitor: Visitor, api: Api) -> None:
    jobs = gallery(api, 100)[::-1]
    page = visitor.open("pictures")
    tiles = page.locator(".gallery .tile")
    for shown in (24, 48, 72, 96):
        expect(tiles).to_have_count(shown)
        page.get_by_role("button", name="Older ones").click()
    expect(tiles).to_have_count(100)
    expect(page.locator(".foot")).to_contain_text("That is all there is.")
    shown = page.locator(".gallery > li").evaluate_all("all => all.map(each => each.dataset.job)")
    assert shown == jobs
    tiles.last.scroll_into_view_if_needed()
    tiles.last.locator("img").evaluate("image => image.decode()")
    visitor.look("hundred")
    tiles.last.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("dt").first).to_be_visible()
    page.keyboard.press("ArrowRight")  # round to the newest one
    expect(dialog.locator("dd code").last).to_have_text(jobs[0])


def test_pictures_are_paged_filtered_and_deleted(visitor: Visitor, api: Api) -> None:
    page = visitor.open("pictures")
    expect(page.locator(".empty")).to_contain_text("No pictures yet")
    visitor.look("empty")
    (drawn,) = gallery(api, 1)
    for n in range(1, 30):
        api.create(prompt=f"number {n}", tags={"n": str(n % 2)})
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".gallery > li")).to_have_count(24)
    page.get_by_role("button", name="Older ones").click()
    expect(page.locator(".gallery > li")).to_have_count(30)
    page.get_by_label("Tag").fill("n=1")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".gallery > li")).to_have_count(15)
    visitor.look("filtered")
    page.get_by_label("Tag").fill("")
    page.get_by_label("Status").select_option("succeeded")
    tile = page.locator(".gallery .tile")
    expect(tile).to_have_count(1)
    tile.click()
    expect(page.locator("dialog dt").first).to_be_visible()
    visitor.look("picture")
    page.get_by_role("button", name="Delete").click()
    visitor.look("question")
    page.get_by_role("dialog").get_by_role("button", name="Delete").last.click()
    expect(tile).to_have_count(0)
    assert api.client.get(f"/v1/jobs/{drawn}").status_code == 404


def test_a_filter_shows_nothing_of_the_one_before(visitor: Visitor, api: Api) -> None:
    gallery(api, 4)
    page = visitor.open("pictures")
    expect(page.locator(".gallery .tile")).to_have_count(4)
    page.get_by_label("Tag").fill("n=1")
    # All are on their way at once.
    show = page.get_by_role("button", name="Show")
    show.evaluate("show => { for (let n = 0; n < 3; n += 1) show.click(); }")
    page.wait_for_load_state("networkidle")
    expect(page.locator(".gallery .tile")).to_have_count(2)


def test_the_keyboard_alone_pages_and_filters(visitor: Visitor, api: Api) -> None:
    gallery(api, 26)
    page = visitor.open("pictures")
    tiles = page.locator(".gallery .tile")
    expect(tiles).to_have_count(24)
    keyboard = Keyboard(page)
    begin = [keyboard.tab() for _ in range(10)]
    assert begin[0] == "Skip to the content"
    assert begin[2:9] == ["Create", "Pictures", "Operate", "API", "Status", "Tag", "Show"]
    assert begin[9] == "Open: number 25, seed 7"
    keyboard.choose("Older ones")
    expect(tiles).to_have_count(26)
    expect(tiles.nth(24)).to_be_focused()  # the first of those that came
    expect(page.locator("#status")).to_have_text("26 shown.")
    assert keyboard.tab() == "Open: number 0, seed 7"
    keyboard.go_to("Tag")
    page.keyboard.type("n=1")
    keyboard.press("Enter")
    expect(tiles).to_have_count(13)
    expect(page.get_by_label("Tag")).to_be_focused()
    expect(page.locator("#status")).to_have_text("13 shown.")


def test_the_keyboard_alone_looks_at_a_picture_and_deletes_it(visitor: Visitor, api: Api) -> None:
    jobs = gallery(api, 3)
    page = visitor.open("pictures")
    tiles = page.locator(".gallery .tile")
    expect(tiles).to_have_count(3)
    keyboard = Keyboard(page)
    keyboard.choose("Open: number 2")
    dialog = page.get_by_role("dialog", name="Picture")
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    expect(dialog.get_by_role("heading")).to_have_text("number 2")
    names = keyboard.round()
    assert names[0] == "Close"
    assert set(names) >= {"Draw it again", "Vary the seed", "Enlarge", "Start from it", "Delete"}
    assert not any(name.startswith("Open:") for name in names), "it leaves the dialog"
    keyboard.go_to("Vary the seed")
    keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_have_text("number 1")
    expect(dialog.get_by_role("status")).to_have_text("2 of 3: number 1")
    keyboard.press("ArrowRight")  # the button that had the focus is another one now
    expect(dialog.get_by_role("heading")).to_have_text("number 0")
    keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(tiles.first).to_be_focused()
    keyboard.press("Enter")
    expect(dialog.get_by_role("heading")).to_have_text("number 2")
    keyboard.choose("Delete")
    question = page.get_by_role("dialog", name="Delete this job")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    keyboard.press("Escape")
    expect(dialog.get_by_role("button", name="Delete")).to_be_focused()
    keyboard.press("Enter")
    keyboard.choose("Delete")
    expect(tiles).to_have_count(2)
    expect(tiles.first).to_be_focused()  # in the place of the one that is gone
    expect(page.locator("#status")).to_have_text("Deleted")
    assert api.client.get(f"/v1/jobs/{jobs[2]}").status_code == 404


LARGER = {"upscale": {"scale": 2, "impl": "resample"}}


@pytest.mark.parametrize(
    ("button", "seed", "chain", "starts"),
    [
        ("Draw it again", 7, None, False),
        ("Vary the seed", None, None, False),
        ("Enlarge", 7, LARGER, False),
        ("Start from it", None, None, True),
    ],
)
def test_the_keyboard_alone_makes_a_picture_the_next_request(
    visitor: Visitor, api: Api, button: str, seed: int | None, chain: Any, starts: bool
) -> None:
    gallery(api, 1)
    page = visitor.open("pictures")
    expect(page.locator(".gallery .tile")).to_have_count(1)
    keyboard = Keyboard(page)
    keyboard.choose("Open: number 0")
    expect(page.locator("dialog dt").first).to_be_visible()
    keyboard.choose(button)
    expect(page.get_by_label("What to draw")).to_have_value("number 0")
    expect(page.locator("main")).to_be_focused()
    assert keyboard.tab() == "What to draw"
    with page.expect_request("**/v1/jobs") as sent:
        keyboard.press("Control+Enter")
    request = json.loads(sent.value.post_data or "")
    assert (request.get("seed"), request.get("chain")) == (seed, chain)
    assert ("image" in request) == starts
    expect(page.locator(".watch .chip")).to_have_text("queued")
