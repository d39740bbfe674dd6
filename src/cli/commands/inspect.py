"""`dreamforge inspect`: what a picture says about itself, and the same picture once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.client import jobs, results
from cli.client.connect import connect
from cli.commands.options import Out, Preset
from cli.errors import Failure
from cli.terminal.output import Output, print_json, print_line, print_note
from cli.terminal.tables import print_pairs

if TYPE_CHECKING:
    from cli.pictures.reader import PictureText


def inspect(
    picture: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A PNG, JPEG, WebP, AVIF or GIF.")
    ],
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Send the same job again, for this one picture.")
    ] = False,
    preset: Preset = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture of --rerun.")] = Path("out"),
    output: Out = Output.TABLE,
) -> None:
    """Print what a picture says about its own making; with --rerun make it again."""
    from cli.pictures.reader import read_picture

    text = read_picture(picture)
    if rerun:
        _rerun(picture, text, preset, out, output)
    else:
        _print(picture, text, output)


def _print(picture: Path, text: PictureText, output: Output) -> None:
    from cli.pictures.reader import parse_metadata

    kind = f"{text.format.upper()}, {text.width}x{text.height} pixels"
    if text.is_silent:
        raise Failure(f"{picture}: {kind}; it says nothing about its making")
    if output is Output.JSON:
        print_json(text.model_dump(mode="json"))
        return
    try:
        facts = parse_metadata(picture, text)
    except Failure:  # another tool's: its texts are all there is
        _print_texts(kind, text)
        return
    print_pairs(
        ("prompt", facts.prompt),
        ("negative prompt", facts.negative_prompt or None),
        ("size", f"{text.width}x{text.height}"),
        ("enlarged", facts.upscale and f"{facts.upscale.scale} times by {facts.upscale.impl}"),
        ("steps", facts.steps),
        ("guidance", repr(facts.guidance).removesuffix(".0")),
        ("scheduler", facts.scheduler or f"the model's own ({facts.scheduler_class or 'unknown'})"),
        ("seed", facts.seed),
        ("model", f"{facts.model.name}@{facts.model.version} ({facts.model.kind})"),
        ("checkpoint", facts.model.checkpoint_sha256),
        *(("lora", f"{each.name}@{each.version}, scale {each.scale:g}") for each in facts.loras),
        ("preset", f"{facts.preset.name}@{facts.preset.version}"),
        ("job", facts.job_id),
        ("step", f"{facts.step}, item {facts.item_index}"),
        ("software", ", ".join(f"{name} {number}" for name, number in facts.software.items())),
    )


def _print_texts(kind: str, text: PictureText) -> None:
    """What another tool wrote: its own text as it is, or each text with its name."""
    from cli.pictures.texts import tool_of

    texts = text.all_texts
    print_note(f"{kind}; {tool_of(texts) or 'made by a tool that is not known here'}")
    if list(texts) == ["parameters"]:
        print_line(texts["parameters"])
        return
    for name, content in texts.items():
        print_line(f"{name}: {content}")


def _rerun(
    picture: Path, text: PictureText, preset: str | None, folder: Path, output: Output
) -> None:
    from cli.pictures.reader import parse_metadata
    from cli.pictures.rerun import build_request, find_loras, find_model, find_upscaler

    facts = parse_metadata(picture, text)
    results.check_folder(folder)
    with connect() as client:
        model, upscaler = find_model(client, facts.model), find_upscaler(client, facts)
        loras = find_loras(client, facts)
        fields = build_request(facts, text.format, preset, upscaler=upscaler, loras=loras)
        job = jobs.create(client, facts.prompt, model=model, **fields)
        job = jobs.follow(client, job["id"])
        paths = jobs.save_and_print(client, job, facts.prompt, folder, output)
    for path in paths:
        print_note(_compared(picture, text, path))


def _compared(picture: Path, text: PictureText, again: Path) -> str:
    from cli.pictures.reader import read_picture
    from cli.pictures.rerun import differences, same_pixels

    if same_pixels(picture, again):
        return "the same picture, pixel for pixel"
    changed = ", ".join(differences(text, read_picture(again)))
    return f"not the same pixels: now {changed or 'perhaps another device; nothing else differs'}"
