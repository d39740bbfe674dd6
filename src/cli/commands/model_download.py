"""`dreamforge model download`: from a reference to a registered model."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import parts
from cli.failures import Failure
from cli.options import Out, Output

Patterns = Annotated[list[str] | None, typer.Option(metavar="PATTERN")]
KINDS = "sd, sdxl, sd3, flux, auto, esrgan, sd_upscale, sd_latent_upscale"


def download(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="hf:OWNER/NAME[@REVISION][#PATTERN], or an address#sha256=HEX."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name here.")] = None,
    version: Annotated[str | None, typer.Option(help="Its version here.")] = None,
    kind: Annotated[str | None, typer.Option(help=f"Instead of what was found: {KINDS}.")] = None,
    include: Patterns = None,
    exclude: Patterns = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 4,
    output: Out = Output.TABLE,
) -> None:
    """Fetch a model, prove what arrived, install and register it. Goes on after a cut."""
    from pydantic import TypeAdapter, ValidationError

    from cli.console import as_json, say
    from cli.download.engine import Order
    from cli.download.engine import download as run
    from cli.download.progress import watching
    from cli.download.source import Wanted, source_for
    from cli.model_folders import models_dir, register
    from cli.tables import pairs
    from shared.model_schema import Kind, Name
    from shared.registry import read_model

    environ = parts.environ()
    url = parts.require(environ, "DF_DATABASE_URL")  # before an hour of fetching, not after
    scheme, colon, rest = reference.partition(":")
    if not colon:
        raise Failure(f"{reference} names no source", hint="write hf:OWNER/NAME for the hub")
    resolved = source_for(scheme)(
        Wanted(scheme=scheme, rest=rest, include=tuple(include or ()), exclude=tuple(exclude or ()))
    )
    try:
        order = Order(
            resolved=resolved,
            name=TypeAdapter(Name).validate_python(name or resolved.name),
            version=TypeAdapter(Name).validate_python(version or resolved.version),
            kind=None if kind is None else TypeAdapter(Kind).validate_python(kind),
            parallel=parallel,
        )
    except ValidationError as error:
        raise Failure(error.errors()[0]["msg"], hint=f"kinds are {KINDS}") from None
    if resolved.left_out:
        say(f"left out: {', '.join(resolved.left_out)}")
    with watching() as watcher:
        place, fetched = run(order, models_dir(environ), watcher)
    found = {
        "id": register(url, place),
        "name": place.name,
        "kind": read_model(place).kind,
        "path": str(place),
        "fetched": "yes" if fetched else "no, it was here and is sound",
    }
    if output is Output.JSON:
        as_json(found | {"fetched": fetched})
    else:
        pairs(*found.items())
