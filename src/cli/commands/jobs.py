"""`dreamforge job …` and `dreamforge generate`: the HTTP API from a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.client import jobs, results
from cli.client.connect import connect
from cli.commands.options import (
    JobId,
    JobOptions,
    Level,
    Out,
    Preview,
    Save,
    Tags,
    Wait,
    takes,
)
from cli.terminal.output import Output, print_line, print_lines, print_note, to_json
from cli.terminal.tables import print_list, print_record

if TYPE_CHECKING:
    from cli.client.http import Client
    from dreamforge_client import answers

app = typer.Typer(no_args_is_help=True, help="Create, follow, cancel and delete jobs.")


@app.command()
@takes(JobOptions)
def create(
    options: JobOptions,
    wait: Wait = False,
    download: Save = None,
    preview: Preview = True,
    output: Out = Output.TABLE,
) -> None:
    """Create a generate job."""
    results.check_folder(download)
    with connect() as client:
        job = _create(client, options)
        if not (wait or download):
            jobs.print_job(job, output, [])
            return
        job = jobs.follow(client, job["id"], previews=_wanted(preview, output))
        jobs.save_and_print(client, job, options.prompt, download, output)


@takes(JobOptions)
def generate(
    options: JobOptions,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    preview: Preview = True,
    output: Out = Output.TABLE,
) -> None:
    """Create a job, watch it, save its pictures and print their paths."""
    results.check_folder(out)
    with connect() as client:
        job_id = _create(client, options)["id"]
        job = jobs.follow(client, job_id, previews=_wanted(preview, output))
        if output is Output.JSON:
            jobs.save_and_print(client, job, options.prompt, out, output)
            return
        for path in results.download(client, job["id"], options.prompt, out):
            print_line(path)
        results.require_succeeded(job)


def _wanted(preview: bool, output: Output) -> bool:
    return preview and output is Output.TABLE


def _create(client: Client, options: JobOptions) -> answers.Job:
    return jobs.create(
        client,
        options.prompt,
        model=options.model,
        key=options.idempotency_key,
        image=jobs.input_id(client, options.image),
        mask=jobs.input_id(client, options.mask),
        images=[jobs.input_id(client, each) for each in options.reference or ()] or None,
        **options.request_fields(),
    )


@app.command()
def status(job: JobId, output: Out = Output.TABLE) -> None:
    """Show one job."""
    with connect() as client:
        jobs.print_job(client.job(job), output, [])


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs with this status.")] = None,
    tag: Tags = None,
    limit: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Go on where a list ended.")] = None,
    output: Out = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        from dreamforge_client.answers import JobPage

        page = client.get(JobPage, "/v1/jobs", status=status, tag=tag, limit=limit, cursor=cursor)
        if output is Output.TABLE and not page["jobs"]:
            print_note(
                "no job matches"
                if status or tag or cursor
                else 'no job yet: `dreamforge generate "a red apple"`'
            )
            return
        heads = ("job", "status", "pictures", "created", "error")
        print_list(page, output, heads, [_row(job) for job in page["jobs"]])
        if page.get("next_cursor") and output is Output.TABLE:
            print_note(f"there are more: --cursor {page['next_cursor']}")


def _row(job: answers.Job) -> tuple[str, ...]:
    done, error = job.get("summary"), job.get("error")
    pictures = f"{done['completed']} of {done['count']}" if done else ""
    code = error.get("code", error["message"]) if error else ""
    return job["id"], job["status"], pictures, job.get("created_at", ""), code


@app.command()
def watch(
    job: JobId, download: Save = None, preview: Preview = True, output: Out = Output.TABLE
) -> None:
    """Follow a job until it ends; exit 1 if it fails."""
    with connect() as client:
        ended = jobs.follow(client, job, previews=_wanted(preview, output))
        jobs.save_and_print(client, ended, job, download, output)


@app.command()
def cancel(job: JobId, output: Out = Output.TABLE) -> None:
    """Cancel a job that is queued or running. Asking twice is no error."""
    with connect() as client:
        client.cancel(job)
        jobs.print_job(client.job(job), output, [])


@app.command()
def delete(job: JobId, output: Out = Output.TABLE) -> None:
    """Delete a job that has ended: pictures, log and request. Asking twice is no error."""
    with connect() as client:
        client.delete(job)
    print_record({"id": job, "deleted": True}, output, ("deleted", job))


@app.command()
def logs(
    job: JobId,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on (ISO 8601).")] = None,
    level: Level = None,
    output: Out = Output.TABLE,
) -> None:
    """Print what happened to a job."""
    with connect() as client:
        lines = client.logs(job, tail=tail, since_ts=since, level=level)
        print_lines(map(to_json if output is Output.JSON else _log_line, lines))


def _log_line(entry: answers.LogLine) -> str:
    return f"{entry['ts']} {entry['level']:<7} {entry['code']:<18} {entry['message']}"


@app.command()
def artifacts(job: JobId, download: Save = None, output: Out = Output.TABLE) -> None:
    """List a job's pictures, with addresses that work for a while."""
    with connect() as client:
        listing = client.artifacts(job)
        rows = [
            (item.get("step", ""), item["item_index"], item["width"], item["height"], item["seed"])
            for item in listing["artifacts"]
        ]
        print_list(listing, output, ("step", "item", "width", "height", "seed"), rows)
        if output is Output.TABLE:
            for item in listing["artifacts"]:
                print_line(item["url"])
        if download:
            results.download(client, job, job, download)
