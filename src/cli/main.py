"""`dreamforge`: the commands, and how a failure becomes lines and an exit code.

Commands import what they need when they run: `dreamforge --help` loads neither an HTTP client nor
the settings library.
"""

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cli.commands import (
    demo,
    dlq,
    doctor,
    inspect,
    jobs,
    mcp,
    models,
    presets,
    retention,
    secrets,
    stack,
    usage,
    webhook,
    workers,
)
from cli.errors import UNREACHABLE, USAGE, Failure
from cli.files import describe_error
from cli.processes.signals import Interrupt
from shared.errors import DreamForgeError, InfraUnavailable
from shared.linux.umask import forbid_writing_by_others
from shared.printable import escape_controls

_WHERE_ALL_IS = "the worker's image, or `pip install dreamforge`, has what this command needs"

_START = (
    'To begin: `dreamforge up` in one terminal, and `dreamforge generate "a red apple"` in another.'
)

app = typer.Typer(
    name="dreamforge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted render fabric: an HTTP API that turns a prompt into a tracked job.",
    epilog=_START,
)
_PICTURES = "Pictures"
app.command(rich_help_panel=_PICTURES)(jobs.generate)
app.add_typer(jobs.app, name="job", rich_help_panel=_PICTURES)
app.command(rich_help_panel=_PICTURES)(inspect.inspect)
app.command(rich_help_panel=_PICTURES)(usage.usage)
app.command(rich_help_panel=_PICTURES)(mcp.mcp)

_HERE = "All on this machine"
app.command(rich_help_panel=_HERE)(stack.up)
app.command(rich_help_panel=_HERE)(demo.demo)
app.command(rich_help_panel=_HERE)(doctor.doctor)

_OPERATORS = "For operators"
app.add_typer(models.app, name="model", rich_help_panel=_OPERATORS)
app.add_typer(presets.app, name="preset", rich_help_panel=_OPERATORS)
app.command(rich_help_panel=_OPERATORS)(workers.workers)
app.add_typer(dlq.app, name="dlq", rich_help_panel=_OPERATORS)
app.add_typer(webhook.app, name="webhook", rich_help_panel=_OPERATORS)
app.command(rich_help_panel=_OPERATORS)(retention.prune)

_PARTS = "One part at a time"
app.command(rich_help_panel=_PARTS)(stack.api)
app.command(rich_help_panel=_PARTS)(stack.worker)
app.command(rich_help_panel=_PARTS)(stack.migrate)
app.command(rich_help_panel=_PARTS)(secrets.secrets)


def _version(requested: bool) -> None:
    from importlib.metadata import PackageNotFoundError, version

    from cli.terminal.output import print_line

    if requested:
        try:
            number = version("dreamforge")
        except PackageNotFoundError:  # run from a clone that was not installed
            number = "unknown"
        print_line(f"dreamforge {number}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script. Exit codes: errors.py; 128 + n after signal n."""
    from cli.terminal.output import accept_all_text

    forbid_writing_by_others()
    accept_all_text()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code. An expected failure is lines, never a trace."""
    try:
        ended = app(arguments, prog_name="dreamforge", standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    except TyperException as error:
        return _fail_usage(error)
    except typer.Abort:
        return 1
    except Failure as failure:
        return _fail(failure.message, failure.hint, failure.exit_code)
    except InfraUnavailable as error:
        return _fail(str(error), "`dreamforge doctor` says which part is away", UNREACHABLE)
    except DreamForgeError as error:
        return _fail(error.message, "", USAGE)
    except OSError as error:  # a folder that we may not write, a disk that is full
        return _fail(describe_error(error), "", 1)
    except ModuleNotFoundError as error:  # an image has the packages of its own commands only
        return _fail(f"this installation has no package {error.name}", _WHERE_ALL_IS, 1)
    except Interrupt as interrupted:
        return interrupted.exit_code
    return ended if isinstance(ended, int) else 0


def _fail_usage(error: TyperException) -> int:
    """Show what is wrong with a command line, as the library does: it may quote a file's name."""
    from typer import rich_utils

    error.message = escape_controls(error.message)
    rich_utils.rich_format_error(error)  # type: ignore[arg-type]  # it raises no other kind
    return error.exit_code


def _fail(message: str, hint: str, exit_code: int) -> int:
    from cli.terminal.output import print_note

    print_note(f"dreamforge: {message}")
    if hint:
        print_note(f"  {hint}")
    return exit_code
