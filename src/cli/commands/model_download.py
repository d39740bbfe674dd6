"""`dreamforge model download|import`: from elsewhere, or from this host, to a registered model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import backends
from cli.commands.options import Out
from cli.terminal.output import Output, print_json
from cli.terminal.tables import print_pairs

Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only such files; several times."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="No such files; several times."),
]
KINDS = "sd, sdxl, sd3, flux, auto, esrgan, sd_upscale, sd_latent_upscale"
NewName = Annotated[str | None, typer.Option("--name", help="Its name here.")]
NewVersion = Annotated[str | None, typer.Option("--version", help="Its version here.")]
KindName = Annotated[
    str | None, typer.Option("--kind", help=f"Instead of what its tensors say: {KINDS}.")
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|REF",
        help="For one file: the diffusers folder that says how to use it; default: its makers'.",
    ),
]
PresetName = Annotated[
    str | None,
    typer.Option("--preset", help="For jobs that name none; default: by the workers' GPUs."),
]


def download(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            # The backslashes are for rich, which takes brackets for styles.
            help="hf:OWNER/NAME\\[@REVISION]\\[#FILE], civitai:MODEL\\[@VERSION] or an "
            "address#sha256=HEX.",
        ),
    ],
    name: NewName = None,
    version: NewVersion = None,
    kind: KindName = None,
    config: Config = None,
    preset: PresetName = None,
    include: Include = None,
    exclude: Exclude = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 4,
    output: Out = Output.TABLE,
) -> None:
    """Fetch a model, prove what arrived, install and register it. Goes on after a cut."""
    from cli.download.install import InstallOptions, install
    from cli.download.sources import resolve

    backends.require(backends.environ(), "DF_DATABASE_URL")  # before an hour of fetching, not after
    found = install(
        resolve(reference, tuple(include or ()), tuple(exclude or ())),
        InstallOptions(
            name=name,
            version=version,
            kind=kind,
            config=config,
            preset=preset,
            parallel=parallel,
        ),
    )
    _show(found, output)


def import_(
    path: Annotated[
        Path, typer.Argument(exists=True, help="A diffusers folder, or one safetensors file.")
    ],
    name: NewName = None,
    version: NewVersion = None,
    kind: KindName = None,
    config: Config = None,
    preset: PresetName = None,
    output: Out = Output.TABLE,
) -> None:
    """Check a model of this host, copy it into DF_MODELS_DIR and register it.

    A folder with a dreamforge.json is taken as that describes it.
    """
    from cli.download.install import InstallOptions, install, register_and_summarize
    from cli.download.local import resolve_local
    from cli.errors import Failure
    from cli.models.install import install_then, models_dir
    from shared.models.folder import DESCRIPTOR

    environ = backends.environ()
    url = backends.require(environ, "DF_DATABASE_URL")
    options = InstallOptions(name=name, version=version, kind=kind, config=config, preset=preset)
    if not (path / DESCRIPTOR).exists():
        _show(install(resolve_local(path), options), output)
        return
    if options != InstallOptions():
        raise Failure(
            f"{path} describes itself in its {DESCRIPTOR}",
            hint="change it there, or take that file away to have the model described anew",
        )
    _show(install_then(path, models_dir(environ), partial(register_and_summarize, url)), output)


def _show(found: dict[str, Any], output: Output) -> None:
    from cli.models.availability import wait_until_offered

    offered = wait_until_offered(
        backends.require(backends.environ(), "DF_DATABASE_URL"), found["id"]
    )
    found = found | {"installed": bool(offered)}
    if output is Output.JSON:
        print_json(found)
        return
    found["installed"] = {True: "yes", False: "no", None: "no worker is up"}[offered]
    if "fetched" in found:
        found = found | {"fetched": "yes" if found["fetched"] else "no, it was here and is sound"}
    print_pairs(*found.items())
