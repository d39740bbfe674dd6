"""A real browser for tests of the page: this machine's Chromium, driven through Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from tests.support.api_harness import Api

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Of each wait for a condition: a machine that does ten other things is ten times as slow.
DEADLINE_MS = 120_000
IS_DARK = "matchMedia('(prefers-color-scheme: dark)').matches"
RULES_BROKEN = "options => axe.run(options).then(found => found.violations)"
# What a screen reader would call "button" and nothing else.
_UNNAMED = re.compile(
    r"- (?:button|link|textbox|searchbox|combobox|checkbox|radio|slider|spinbutton|meter"
    r"|progressbar|img|region|dialog|application)(?= \[|:|$).*",
    re.MULTILINE,
)
# Folder for screenshots of what the tests see; they are written where it is set.
KEPT = "DREAMFORGE_SCREENSHOTS"


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser() -> Iterator[BrowserContext]:
    """One that keeps files between its pages. Skips the test where there is none; Playwright
    downloads nothing."""
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        expect.set_options(timeout=DEADLINE_MS)
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(DEADLINE_MS)
        try:
            yield context
        finally:
            browser.close()


class Visitor:
    """A page that was opened, with all that it complained of and all that it asked for."""

    def __init__(self, browser: BrowserContext, base: str) -> None:
        self.base = base
        self.page: Page = browser.new_page()
        self.complaints: list[str] = []
        self.origins: set[str] = set()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.origins.add(_origin(request.url)))

    def _hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, section: str = "") -> Page:
        self.page.goto(f"{self.base}/{section and f'#/{section}'}")
        return self.page

    def look(self, name: str) -> None:
        """What is shown now breaks no rule of accessibility, in light and in dark, and each control
        has a name; keep pictures of it where that is asked for."""
        if not self.page.evaluate("'axe' in window"):
            source = files("axe_playwright_python") / "axe.min.js"
            self.page.evaluate(source.read_text(encoding="utf-8"))
        self._keep(name)
        self._check_rules()
        unnamed = _UNNAMED.findall(self.page.locator("body").aria_snapshot())
        assert not unnamed, unnamed
        dark = self.page.evaluate(IS_DARK)
        self.page.emulate_media(color_scheme="light" if dark else "dark")
        self._keep(f"{name}-{'light' if dark else 'dark'}")
        self._check_rules(runOnly=["color-contrast"])
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def _keep(self, name: str) -> None:
        if folder := os.environ.get(KEPT):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    def _check_rules(self, **options: Any) -> None:
        """Fail with what axe-core finds wrong with the page as it is now."""
        # What is right is not asked for, since to tell it takes longer than to find what is wrong.
        options |= {"preload": False, "resultTypes": ["violations"]}
        broken = [
            f"{rule['id']}: {node['target']} {node.get('failureSummary', '')}"
            for rule in self.page.evaluate(RULES_BROKEN, options)
            for node in rule["nodes"]
        ]
        assert not broken, broken


@contextmanager
def visiting(browser: BrowserContext, api: Api) -> Iterator[Visitor]:
    """Who leaves without a complaint, and has asked no one but the API and the store."""
    visitor = Visitor(browser, api.base)
    try:
        yield visitor
    finally:
        visitor.page.close()
    assert visitor.complaints == []
    assert visitor.origins <= {api.base, api.settings.s3_endpoint}


def _origin(url: str) -> str:
    return "/".join(url.removeprefix("blob:").split("/", 3)[:3])
