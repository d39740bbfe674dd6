"""`dreamforge job …` and `dreamforge generate`: the HTTP API from a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import (
    Count,
    Format,
    Guidance,
    Height,
    JobId,
    Key,
    Level,
    Model,
    Negative,
    Out,
    Plain,
    Preset,
    Prompt,
    Save,
    Scheduler,
    Seed,
    Steps,
    StrictScale,
    Timeout,
    Upscale,
    UpscaleImpl,
    Upscaler,
    Wait,
    Width,
)
from cli.terminal.output import Output, print_json, print_line, print_note
from cli.terminal.tables import print_table

app = typer.Typer(no_args_is_help=True, help="Create, follow and cancel jobs.")


@app.command()
def create(
    prompt: Prompt,
    negative_prompt: Negative = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    count: Count = None,
    format: Format = None,
    upscale: Upscale = None,
    upscale_impl: UpscaleImpl = None,
    upscaler: Upscaler = None,
    strict_scale: StrictScale = False,
    model: Model = None,
    preset: Preset = None,
    timeout: Timeout = None,
    no_metadata: Plain = False,
    idempotency_key: Key = None,
    wait: Wait = False,
    download: Save = None,
    output: Out = Output.TABLE,
) -> None:
    """Create a generate job."""
    from cli.client import jobs
    from cli.client.connect import connect

    with connect() as client:
        job = jobs.create(
            client,
            prompt,
            model=model,
            key=idempotency_key,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            seed=seed,
            count=count,
            format=format,
            chain=jobs.chain(upscale, upscale_impl, upscaler, strict_scale),
            preset=preset,
            timeout_s=timeout,
            embed_metadata=False if no_metadata else None,
        )
        if not (wait or download):
            jobs.print_job(job, output, [])
            return
        job = jobs.follow(client, job["id"])
        jobs.save_and_print(client, job, prompt, download, output)


def generate(
    prompt: Prompt,
    negative_prompt: Negative = None,
    width: Width = None,
    height: Height = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    seed: Seed = None,
    count: Count = None,
    format: Format = None,
    upscale: Upscale = None,
    upscale_impl: UpscaleImpl = None,
    upscaler: Upscaler = None,
    strict_scale: StrictScale = False,
    model: Model = None,
    preset: Preset = None,
    timeout: Timeout = None,
    no_metadata: Plain = False,
    idempotency_key: Key = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    output: Out = Output.TABLE,
) -> None:
    """Create a job, watch it, save its pictures and print their paths."""
    from cli.client import jobs
    from cli.client.connect import connect
    from cli.client.results import download, require_succeeded

    with connect() as client:
        job = jobs.create(
            client,
            prompt,
            model=model,
            key=idempotency_key,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            seed=seed,
            count=count,
            format=format,
            chain=jobs.chain(upscale, upscale_impl, upscaler, strict_scale),
            preset=preset,
            timeout_s=timeout,
            embed_metadata=False if no_metadata else None,
        )
        job = jobs.follow(client, job["id"])
        if output is Output.JSON:
            jobs.save_and_print(client, job, prompt, out, output)
            return
        for path in download(client, job["id"], prompt, out):
            print_line(path)
        require_succeeded(job)


@app.command()
def status(job: JobId, output: Out = Output.TABLE) -> None:
    """Show one job."""
    from cli.client import jobs
    from cli.client.connect import connect

    with connect() as client:
        jobs.print_job(client.get(f"/v1/jobs/{job}"), output, [])


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Go on where a list ended.")] = None,
    output: Out = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    from cli.client.connect import connect

    with connect() as client:
        page = client.get("/v1/jobs", status=status, limit=limit, cursor=cursor)
    if output is Output.JSON:
        print_json(page)
        return
    rows = [(job["id"], job["status"], job["type"], job["created_at"]) for job in page["jobs"]]
    print_table(("job", "status", "type", "created"), rows)
    if page.get("next_cursor"):
        print_note(f"there are more: --cursor {page['next_cursor']}")


@app.command()
def watch(job: JobId, download: Save = None, output: Out = Output.TABLE) -> None:
    """Follow a job until it ends; exit 1 if it fails."""
    from cli.client import jobs
    from cli.client.connect import connect

    with connect() as client:
        found = jobs.follow(client, job)
        jobs.save_and_print(client, found, job, download, output)


@app.command()
def cancel(job: JobId, output: Out = Output.TABLE) -> None:
    """Cancel a job that is queued or running. Asking twice is no error."""
    from cli.client import jobs
    from cli.client.connect import connect

    with connect() as client:
        client.post(f"/v1/jobs/{job}/cancel")
        jobs.print_job(client.get(f"/v1/jobs/{job}"), output, [])


@app.command()
def logs(
    job: JobId,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on (ISO 8601).")] = None,
    level: Level = None,
    output: Out = Output.TABLE,
) -> None:
    """Print what happened to a job."""
    import json
    import sys

    from cli.client.connect import connect

    with connect() as client:
        for line in client.lines(f"/v1/jobs/{job}/logs", tail=tail, since_ts=since, level=level):
            shown = line
            if output is Output.TABLE:
                entry = json.loads(line)
                head = f"{entry['ts']} {entry['level']:<7} {entry['code']:<18}"
                shown = f"{head} {entry['message']}"
            sys.stdout.write(shown + "\n")


@app.command()
def artifacts(job: JobId, download: Save = None, output: Out = Output.TABLE) -> None:
    """List a job's pictures, with addresses that work for a while."""
    from cli.client.connect import connect
    from cli.client.results import download as save

    with connect() as client:
        found = client.get(f"/v1/jobs/{job}/artifacts")
        if output is Output.JSON:
            print_json(found)
        else:
            rows = [
                (item["step"], item["item_index"], item["width"], item["height"], item["seed"])
                for item in found["artifacts"]
            ]
            print_table(("step", "item", "width", "height", "seed"), rows)
            for item in found["artifacts"]:
                print_line(item["url"])
        if download:
            save(client, job, job, download)
