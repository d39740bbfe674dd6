"""`dreamforge secrets`: what an installation in containers needs before its first start."""

from pathlib import Path
from typing import Annotated

import typer

from cli.terminal.output import print_note


def secrets(
    folder: Annotated[Path, typer.Argument(help="Made if it is missing, for you alone.")],
) -> None:
    """Make the secrets of an installation in containers: random, and none is ever replaced."""
    from cli import secret_files

    secret_files.write(folder, secret_files.contents())
    print_note(f"wrote {folder}; the key of the API's first user is in {folder / secret_files.KEY}")
