"""`dreamforge mcp`, asked by the client of the protocol's own library, against a real API."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client as Agent
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client
from tests.support.api_harness import Api, running_api

from cli.client import mcp_server
from cli.client.http import Client

PICTURE = b"\x89PNG a picture"


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


@pytest.fixture
def worker(api: Api) -> Iterator[None]:
    """Ends each job a moment after it was created, with a picture for each item."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            for job, count in api.sql("SELECT id::text, count FROM jobs WHERE status = 'queued'"):
                for index in range(count):
                    api.artifact(job, index, PICTURE)
                api.finish(job)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


def ask(server: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """The results of these calls, one after the other."""

    async def main() -> list[Any]:
        async with Agent(server) as agent:
            tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
            assert tools.keys() == {"generate", "status", "fetch"}
            assert "prompt" in tools["generate"].input_schema["required"]
            assert all(tool.description for tool in tools.values())
            assert not any(tool.input_schema["additionalProperties"] for tool in tools.values())
            return [await agent.call_tool(name, arguments) for name, arguments in calls]

    return anyio.run(main)


@pytest.mark.usefixtures("worker")
def test_an_agent_starts_it_and_gets_pictures(api: Api) -> None:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "cli", "mcp"], env={"DF_API_BASE": api.base}
    )
    (made,) = ask(command, ("generate", {"prompt": "a red apple", "seed": 7, "count": 2}))
    said, *pictures = made.content
    job = json.loads(said.text)
    assert not made.is_error
    assert (job["status"], len(job["pictures"])) == ("succeeded", 2)
    assert [base64.b64decode(picture.data) for picture in pictures] == [PICTURE] * 2
    assert {picture.mime_type for picture in pictures} == {"image/png"}
    assert api.sql("SELECT request->>'seed', count FROM jobs") == [("7", 2)]


@pytest.mark.usefixtures("worker")
def test_its_log_has_no_address_that_is_a_key_to_a_picture(api: Api, tmp_path: Path) -> None:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "cli", "mcp"], env={"DF_API_BASE": api.base}
    )
    log = tmp_path / "log"
    with log.open("w") as errors:
        (made,) = ask(stdio_client(command, errlog=errors), ("generate", {"prompt": "a red apple"}))
    assert [each.type for each in made.content] == ["text", "image"]
    assert log.read_text() == ""


def test_an_argument_that_no_tool_has_makes_no_picture(api: Api) -> None:
    with Client(api.base) as client:
        server = mcp_server.build_server(client)
        made, asked = ask(
            server,
            ("generate", {"prompt": "a red apple", "negative": "a worm"}),
            ("status", {"job_id": "x", "wait": 5}),
        )
    assert made.is_error and "negative" in made.content[0].text
    assert asked.is_error and "wait" in asked.content[0].text
    assert api.sql("SELECT count(*) FROM jobs") == [(0,)]


def test_a_failure_says_what_to_do() -> None:
    with Client("http://127.0.0.1:1") as client:
        (away,) = ask(mcp_server.build_server(client), ("status", {"job_id": "x"}))
    assert away.is_error and "dreamforge up" in away.content[0].text


def test_a_job_that_takes_longer_is_asked_for_by_its_id(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_server, "WAIT_S", 0)
    monkeypatch.setattr(mcp_server, "LOOK_S", 0)
    monkeypatch.setattr(mcp_server, "INLINE_BYTES", len(PICTURE))
    with Client(api.base) as client:
        server = mcp_server.build_server(client)
        (begun,) = ask(server, ("generate", {"prompt": "a red apple", "count": 2}))
        job = json.loads(begun.content[0].text)
        assert (job["status"], len(begun.content)) == ("queued", 1)
        for index in range(2):
            api.artifact(job["id"], index, PICTURE)
        api.finish(job["id"])
        status, fetched, wrong, missing = ask(
            server,
            ("status", {"job_id": job["id"]}),
            ("fetch", {"job_id": job["id"]}),
            ("generate", {"prompt": "a red apple", "width": 65}),
            ("status", {"job_id": "x"}),
        )
    assert json.loads(status.content[0].text)["progress"] == 1
    # What is too much for one answer is there as an address.
    first, second = json.loads(fetched.content[0].text)["pictures"]
    assert len(fetched.content) == 2
    assert "url" not in first and second["url"].startswith("http")
    assert wrong.is_error and "multiple of 8" in wrong.content[0].text
    assert missing.is_error and "no such job" in missing.content[0].text
