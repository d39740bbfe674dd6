"""`python scripts/screenshot_page.py`: the picture of the page in the README, from a real run.

It draws with the API at DF_API_BASE (`make up`), in the machine's own Chromium.
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.browser import find_browser

TARGET = Path(__file__).parents[1] / "docs/images/the-page.png"
BASE = os.environ.get("DF_API_BASE", "http://127.0.0.1:8001")
PROMPT = "a red apple"
WAIT_MS = 300_000  # of a busy machine


def main() -> None:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=find_browser(), args=arguments)
        page = browser.new_page(viewport={"width": 1200, "height": 760}, device_scale_factor=1.5)
        page.goto(f"{BASE}/")
        page.get_by_label("What to draw").fill(PROMPT)
        page.locator("#field-seed").fill("7")
        page.locator("#field-count").fill("6")
        page.get_by_role("button", name="Draw", exact=True).click()
        page.locator(".watch .chip.succeeded").wait_for(timeout=WAIT_MS)
        page.locator(".watch .tile img").last.scroll_into_view_if_needed()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=TARGET)
        browser.close()


if __name__ == "__main__":
    main()
