"""The page at `/`, in a real browser, with a real API.

Rows play the worker; what needs a real one is in `tests/integration/whole/test_page.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from playwright.sync_api import BrowserContext
from tests.support.api_harness import Api, running_api
from tests.support.browser import Visitor, open_browser, visiting
from tests.support.database import empty_tables
from tests.support.infrastructure import Infrastructure
from tests.support.page import wait_ready


@pytest.fixture(scope="module")
def api(stack: Infrastructure, migrated_url: str) -> Iterator[Api]:
    empty_tables(migrated_url)
    with running_api(stack.environment) as api:
        anyio.run(api.ensure_bucket)  # what a worker does at its start
        api.install(capabilities=("generate", "image_to_image", "inpaint"))
        wait_ready(api)
        yield api


@pytest.fixture(autouse=True)
def no_rows(api: Api) -> None:
    """Of the test before, but its one model."""
    for statement in (
        "DELETE FROM jobs",
        "DELETE FROM workers",
        "DELETE FROM models WHERE name = 'editor'",
        "UPDATE models SET name = 'tiny'",
    ):
        api.sql(statement)


@pytest.fixture(scope="module")
def browser(
    api: Api,
) -> Iterator[BrowserContext]:  # its loop would be in the way of what `api` starts
    with open_browser() as opened:
        yield opened


@pytest.fixture
def visitor(browser: BrowserContext, api: Api) -> Iterator[Visitor]:
    with visiting(browser, api) as visitor:
        yield visitor
