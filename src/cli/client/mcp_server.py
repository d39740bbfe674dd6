"""An MCP server over stdio: agents make pictures with it, and see them.

It is a client of the HTTP API like the other commands. Its tools are plain functions, which the
library runs in threads. A call does not wait longer than agents usually do: after that the agent
has the job's id, and asks again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from cli.client import jobs
from cli.client.http import Client
from cli.errors import Failure
from dreamforge_client import answers
from dreamforge_client.shapes import last_of_items

# Most agents give a call a minute.
WAIT_S = 45
# Of one look; between two the agent hears how far the job is.
LOOK_S = 5
# Of the files in one answer: they become text in the agent's context.
INLINE_BYTES = 8 << 20
_ENDED = {"succeeded", "failed", "cancelled"}
_INSTRUCTIONS = (
    "Makes pictures from text on the user's own GPUs. `generate` answers with the pictures, or, "
    "where it takes longer than some seconds, with a job id: then `status`, and `fetch` at the end."
)

Prompt = Annotated[str, Field(description="what to draw")]
Negative = Annotated[str | None, Field(description="what to avoid")]
Side = Annotated[int | None, Field(description="pixels, a multiple of 8; default: the model's")]
Steps = Annotated[int | None, Field(description="sampling steps; default: the model's")]
Seed = Annotated[int | None, Field(description="the same seed makes the same picture")]
Count = Annotated[int, Field(ge=1, le=8, description="how many pictures")]
Model = Annotated[str | None, Field(description="a model's name; default: the installation's")]
JobId = Annotated[str, Field(description="a job's id, from `generate`")]
Content = list[str | Image]


def build_server(client: Client) -> MCPServer[Any]:
    """The server with its tools. `client` stays the caller's."""
    own = _Tools(client)
    tools = [_tool(each) for each in (own.generate, own.status, own.fetch)]
    # Agents keep what a server logs. At INFO that is the address of each request, and a presigned
    # one is a key to the picture.
    return MCPServer("Dream Forge", instructions=_INSTRUCTIONS, tools=tools, log_level="WARNING")


def _tool(function: Callable[..., Content]) -> Tool:
    """The tool of a function. An argument that it does not have is refused, not left out."""
    tool = Tool.from_function(function, structured_output=False)
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    return tool.model_copy(
        update={"parameters": {**tool.parameters, "additionalProperties": False}}
    )


class _Tools:
    """The functions behind the tools. Agents see their names, docstrings and parameters."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def generate(
        self,
        ctx: Context[Any],
        prompt: Prompt,
        negative_prompt: Negative = None,
        width: Side = None,
        height: Side = None,
        steps: Steps = None,
        seed: Seed = None,
        count: Count = 1,
        model: Model = None,
    ) -> Content:
        """Make pictures from text, and return them with what is known of them."""

        def work() -> Content:
            job = jobs.create(
                self._client,
                prompt,
                model=model,
                key=str(uuid4()),
                negative_prompt=negative_prompt,
                width=width,
                height=height,
                steps=steps,
                seed=seed,
                count=count,
            )
            job = self._wait(ctx, job["id"])
            return self._pictures(job) if job["status"] in _ENDED else [_text(job)]

        return _call(work)

    def status(self, job_id: JobId) -> Content:
        """Say how far a job is: its status, queue, progress and error."""

        def work() -> Content:
            job = self._client.job(job_id)
            return [_text({**job, "progress": self._client.progress(job_id)})]

        return _call(work)

    def fetch(self, job_id: JobId) -> Content:
        """Return the pictures that a job has finished by now."""
        return _call(lambda: self._pictures(self._client.job(job_id)))

    def _wait(self, ctx: Context[Any], job_id: str) -> answers.Job:
        """The job at its end, or as it is after `WAIT_S`."""
        until = time.monotonic() + WAIT_S
        while True:
            job = self._client.job(job_id, wait=LOOK_S)
            if job["status"] in _ENDED or time.monotonic() > until:
                return job
            progress = self._client.progress(job_id)
            anyio.from_thread.run(ctx.report_progress, progress, 1.0, job["status"])

    def _pictures(self, job: answers.Job) -> Content:
        """The job as text, then its pictures; of a chain those of the last step that made them."""
        artifacts = self._client.artifacts(job["id"])["artifacts"]
        shown, images, left = list[dict[str, Any]](), list[Image](), INLINE_BYTES
        for artifact in last_of_items(artifacts):
            facts: dict[str, Any] = {
                "item_index": artifact["item_index"],
                "width": artifact["width"],
                "height": artifact["height"],
                "seed": artifact["seed"],
            }
            size_bytes = artifact.get("size_bytes", INLINE_BYTES + 1)
            if 0 <= size_bytes <= left:
                left -= size_bytes
                images.append(self._image(artifact))
            else:
                facts["url"] = artifact["url"]
            shown.append(facts)
        return [_text({**job, "pictures": shown}), *images]

    def _image(self, artifact: answers.Artifact) -> Image:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "picture")
            self._client.save(artifact["url"], path)
            kind = {"jpg": "jpeg"}.get(artifact["format"], artifact["format"])
            return Image(data=path.read_bytes(), format=kind)


def _call(work: Callable[[], Content]) -> Content:
    """The result of `work`; a failure becomes a text that the agent reads."""
    try:
        return work()
    except Failure as error:
        raise ToolError("\n".join(filter(None, (error.message, error.hint)))) from error


def _text(job: Mapping[str, Any]) -> str:
    names = ("id", "status", "queue", "progress", "pictures", "error")
    return json.dumps({name: job[name] for name in names if job.get(name) is not None})
