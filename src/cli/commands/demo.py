"""`dreamforge demo`: the whole way from nothing to one picture, then everything stops again.

Two steps, as an application would ask for them: the demo model draws 64x64 pixels, and the upscaler
that ships with it makes 256x256 of them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import config
from cli.client.jobs import create
from cli.client.results import download, require_succeeded
from cli.errors import Failure
from cli.models.vocabulary import prompt_matches
from cli.processes import signals
from cli.terminal.output import print_line, print_note
from cli.terminal.tables import print_table

if TYPE_CHECKING:
    from cli.stack.stack import Stack

SCALE = 4
# Fixed, so that the first picture is the same on every machine of a kind.
SEED = 7


def demo(
    prompt: Annotated[str, typer.Option(help="What to draw.")] = "a red apple",
    seed: Annotated[int, typer.Option(help="The same seed draws the same picture.")] = SEED,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("out"),
    list_: Annotated[
        bool, typer.Option("--list", help="Print what the demo model can draw, and stop.")
    ] = False,
) -> None:
    """Start everything, draw one picture, say how long it took, stop everything."""
    from cli.stack.stack import run_stack

    if list_:
        _print_vocabulary()
        return
    environ = {"DF_DRAIN_S": "0", **config.effective()}  # an interrupted demo is over at once
    with signals.handle(), run_stack(config.home(environ), environ, print_note) as stack:
        _draw(stack, config.api_key(environ), prompt, seed, out)


def _draw(stack: Stack, api_key: str | None, prompt: str, seed: int, folder: Path) -> None:
    from cli.client.http import Client
    from cli.client.sse import read_in_background
    from cli.terminal.progress_bar import show_progress
    from cli.terminal.stage_times import stage_times

    warn(stack, prompt)
    with Client(stack.api_base, api_key) as client:
        job = create(client, prompt, model=stack.model.id, seed=seed, chain=chain(stack))
        try:
            events = read_in_background(client.stream(job["id"]), stack.manager.tick)
            seen = list(show_progress(events))
        except signals.Interrupt:
            # Else the next start would draw it first. The first signal is the only one that raises.
            with contextlib.suppress(Failure):
                client.cancel(job["id"])
            raise
        require_succeeded(client.job(job["id"]))
        for path in download(client, job["id"], prompt, folder):
            print_line(path, "bold")
    print_table(("stage", "seconds"), [(name, f"{s:.2f}") for name, s in stage_times(seen)])


def chain(stack: Stack) -> dict[str, Any] | None:
    """The second step: by our own upscaler, whatever else is installed."""
    if stack.upscaler is None:
        print_note(
            "the picture stays at the size that it is drawn at: networks that enlarge need "
            "dreamforge[gan], which is not installed"
        )
        return None
    return {"upscale": {"scale": SCALE, "model_id": stack.upscaler.id}}


def warn(stack: Stack, prompt: str) -> None:
    """Say what the model of this stack cannot do with this prompt."""
    from cli.models.vocabulary import read_synonyms, read_vocabulary

    words = read_vocabulary(stack.model.folder)
    if words and not prompt_matches([*words, *read_synonyms(stack.model.folder)], prompt):
        print_note(
            "the demo model knows a fixed vocabulary, and nothing of this prompt is in it: see "
            "`dreamforge demo --list`; `dreamforge model import` registers a real model"
        )


def _print_vocabulary() -> None:
    from cli.models.install import bundled_models
    from cli.models.vocabulary import read_vocabulary

    for folder in bundled_models()[:1]:
        for word in read_vocabulary(folder):
            print_line(word)
