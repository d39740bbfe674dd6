"""`dreamforge model verify|enable|disable|remove`: what an operator does with installed models.

`verify` reads this host's disk and nothing else. The others change the registry, which a worker
reads every 10 s. A model that does not verify is reported and left as it is: the same folder may be
sound on another host, so the operator decides what to do.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli import backends, config
from cli.commands.options import Out
from cli.errors import JOB_FAILED, Failure
from cli.terminal.output import Output, print_note
from cli.terminal.tables import print_list, print_record

if TYPE_CHECKING:
    from pathlib import Path

    from shared.db.engine import Connection
    from shared.db.models import Model

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Id, name or name@version.")]


def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Name or name@version; all without it.")
    ] = None,
    output: Out = Output.TABLE,
) -> None:
    """Read every byte of the models on this host and compare it with their descriptors."""
    from cli.models.install import models_dir

    root = models_dir(config.environ())
    reports = [_verify_folder(folder) for folder in _folders(root, model)]
    if model is not None and not reports:
        raise Failure(f"no model {model} in {root}", hint="`dreamforge model list` shows them")
    rows = [(row["model"], row["problem"] or "sound") for row in reports]
    print_list({"models": reports}, output, ("model", "state"), rows)
    if any(row["problem"] for row in reports):
        raise typer.Exit(JOB_FAILED)


def enable(model: Reference) -> None:
    """Let new jobs use a model, and workers load it."""
    _switch(model, on=True)


def disable(model: Reference) -> None:
    """Refuse new jobs for a model; jobs that wait for it wait until it is enabled again."""
    _switch(model, on=False)


def remove(
    model: Reference,
    force: Annotated[
        bool, typer.Option("--force", help="Even if jobs need it: they wait for its return.")
    ] = False,
    output: Out = Output.TABLE,
) -> None:
    """Take a model out of the registry and off this host's disk."""
    from cli.models.install import models_dir
    from cli.models.store import lock_model, remove_model

    environ = config.environ()
    url, root = backends.database_url(environ), models_dir(environ)
    row, deleted = backends.transaction(url, _retire, reference=model, force=force)
    place = root / row.kind / row.label
    with lock_model(root, place.name):
        here = remove_model(place, root)
    record = {
        "model": row.label,
        "files": "removed" if here else "not on this host",
        "registry": "removed" if deleted else "disabled; past jobs name it",
    }
    print_record(record, output)


def _folders(root: Path, model: str | None) -> list[Path]:
    pattern = "*@*" if model is None else model if "@" in model else f"{model}@*"
    return sorted(path for path in root.glob("[!.]*/*@*") if path.match(pattern))


def _verify_folder(folder: Path) -> dict[str, Any]:
    from shared.errors import ModelUnavailable
    from shared.models.verify import read_descriptor, verify_model

    print_note(f"reading {folder.name}")
    try:
        verify_model(folder, read_descriptor(folder))
        problem = None
    except ModelUnavailable as error:
        problem = error.message
    return {"model": folder.name, "path": str(folder), "problem": problem}


def _switch(reference: str, *, on: bool) -> None:
    url = backends.database_url(config.environ())
    row = backends.transaction(url, _set_enabled, reference=reference, on=on)
    print_note(f"{row.label} is {'enabled' if on else 'disabled'}")


async def _set_enabled(connection: Connection, *, reference: str, on: bool) -> Model:
    from shared.db.models import set_enabled

    row = await _find(connection, reference)
    await set_enabled(connection, row.id, on)
    return row


async def _retire(connection: Connection, *, reference: str, force: bool) -> tuple[Model, bool]:
    from shared.db.models import count_open_steps, retire_model

    row = await _find(connection, reference)
    deleted = await retire_model(connection, row.id)
    waiting = await count_open_steps(connection, row.id)
    if waiting and not force:  # the transaction is rolled back, so the model stays enabled
        raise Failure(
            f"{row.label} is needed by {waiting} step(s) that are not finished",
            hint="wait, cancel them, or use --force: they wait until the model is back",
        )
    return row, deleted


async def _find(connection: Connection, reference: str) -> Model:
    """The model of this reference. A name without a version must have one version only."""
    from shared.db import models

    with suppress(ValueError):  # an id in another spelling
        reference = str(UUID(reference))
    rows = models.named(await models.list_models(connection), reference)
    if not rows:
        raise Failure(f"no model {reference}", hint="`dreamforge model list` shows them")
    if len(rows) > 1:
        names = ", ".join(row.label for row in rows)
        raise Failure(f"{reference} could be any of: {names}", hint="name the version")
    return rows[0]
