"""`python scripts/screenshot_page.py`: the pictures of the page in the README, from a real run.

It draws with the API at DF_API_BASE (`make up` on an empty state folder), in the machine's own
Chromium.
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.browser import find_browser

IMAGES = Path(__file__).parents[1] / "docs/images"
BASE = os.environ.get("DF_API_BASE", "http://127.0.0.1:8001")
# Names that the demo model knows, the newest last.
PROMPTS = (
    "a red apple",
    "a butterfly",
    "a volcano",
    "a bicycle",
    "a robot",
    "a penguin",
    "a mushroom",
    "a whale",
    "a sailboat",
    "a rainbow",
    "a slice of pizza",
    "a guitar",
    "a sunflower",
    "a fox",
    "a parrot",
    "a rocket",
    "an owl",
    "a castle",
)
ENLARGED = {"upscale": {"scale": 4, "impl": "auto"}}
WAIT_MS = 300_000  # of a busy machine


def main() -> None:
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=find_browser(), args=arguments)
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.set_default_timeout(WAIT_MS)
        for prompt in PROMPTS[:-1]:
            request = {"type": "generate", "prompt": prompt, "seed": 7, "chain": ENLARGED}
            assert page.request.post(f"{BASE}/v1/jobs", data=request).ok
        draw(page, PROMPTS[-1])
        keep(page, "the-page.png", pictures=1)
        page.get_by_role("link", name="Pictures").click()
        keep(page, "the-pictures.png", pictures=len(PROMPTS))
        browser.close()


def draw(page: Page, prompt: str) -> None:
    """Draw it with the form, enlarged."""
    page.goto(f"{BASE}/")
    page.get_by_label("What to draw").fill(prompt)
    page.get_by_label("Seed").fill("7")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Enlarge").select_option("4\N{MULTIPLICATION SIGN}")
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator(".watch .chip")).to_have_text("succeeded")


def keep(page: Page, name: str, *, pictures: int) -> None:
    """A screenshot, once so many pictures are on it."""
    shown = page.locator(".tile img")
    expect(shown).to_have_count(pictures)
    for each in shown.all():
        each.evaluate("image => image.decode()")
    page.evaluate("document.activeElement.blur(); scrollTo({ top: 0, behavior: 'instant' })")
    page.screenshot(path=IMAGES / name)


if __name__ == "__main__":
    main()
