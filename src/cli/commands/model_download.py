"""`dreamforge model download|import`: from elsewhere, or from this host, to a registered model."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import backends, config
from cli.commands.options import Out, takes
from cli.errors import Failure
from cli.terminal.output import Output, print_json
from cli.terminal.tables import print_pairs

Include = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Only such files; several times."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="No such files; several times."),
]
KINDS = "sd, sdxl, sd3, flux, auto, esrgan, network, sd_upscale, sd_latent_upscale"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a new model is called here, and how it is used."""

    name: Annotated[str | None, typer.Option(help="Its name here.")] = None
    version: Annotated[str | None, typer.Option(help="Its version here.")] = None
    kind: Annotated[str | None, typer.Option(help=f"Instead of what its tensors say: {KINDS}.")] = (
        None
    )
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|REF",
            help="For one file: the diffusers folder that says how to use it; "
            "default: its makers'.",
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(help="For jobs that name none; default: by the workers' GPUs."),
    ] = None


@takes(ModelOptions)
def download(
    options: ModelOptions,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            # The backslashes are for rich, which takes brackets for styles.
            help="hf:OWNER/NAME\\[@REVISION]\\[#FILE], civitai:MODEL\\[@VERSION] or an "
            "address#sha256=HEX.",
        ),
    ],
    include: Include = None,
    exclude: Exclude = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 4,
    output: Out = Output.TABLE,
) -> None:
    """Fetch a model, prove what arrived, install and register it. Goes on after a cut."""
    from cli.download.install import InstallOptions, install
    from cli.download.sources import resolve

    backends.database_url(config.environ())  # before an hour of fetching, not after
    model = install(
        resolve(reference, tuple(include or ()), tuple(exclude or ())),
        InstallOptions(**asdict(options), parallel=parallel),
    )
    _show(model, output)


@takes(ModelOptions)
def import_(
    options: ModelOptions,
    path: Annotated[
        Path, typer.Argument(exists=True, help="A diffusers folder, or one safetensors file.")
    ],
    output: Out = Output.TABLE,
) -> None:
    """Check a model of this host, copy it into DF_MODELS_DIR and register it.

    A folder with a dreamforge.json is taken as that describes it.
    """
    from cli.download.install import InstallOptions, install, register_and_summarize
    from cli.download.local import resolve_local
    from cli.models.fit import refuse_described_misfit
    from cli.models.install import install_then, models_dir
    from shared.models.folder import DESCRIPTOR

    environ = config.environ()
    url = backends.database_url(environ)
    if not (path / DESCRIPTOR).exists():
        resolved = resolve_local(path, models_dir(environ))
        _show(install(resolved, InstallOptions(**asdict(options))), output)
        return
    if options != ModelOptions():
        raise Failure(
            f"{path} describes itself in its {DESCRIPTOR}",
            hint="change it there, or take that file away to have the model described anew",
        )
    refuse_described_misfit(path)
    root = models_dir(environ)
    _show(install_then(path, root, partial(register_and_summarize, url, root)), output)


def _show(model: dict[str, Any], output: Output) -> None:
    from cli.models.availability import wait_until_offered

    database_url = backends.database_url(config.environ())
    offered = wait_until_offered(database_url, model["id"])
    if output is Output.JSON:
        print_json(model | {"installed": bool(offered)})
        return
    model = model | {"installed": {True: "yes", False: "no", None: "no worker is up"}[offered]}
    if "fetched" in model:
        model["fetched"] = "yes" if model["fetched"] else "no, it was here and is sound"
    print_pairs(*model.items())
