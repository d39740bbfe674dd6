"""`dreamforge preset …`: what there is, what suits a model, and what a model really takes."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Height, Out, Width
from cli.terminal.output import Output, print_json, print_line
from cli.terminal.tables import print_list, print_pairs, print_table

app = typer.Typer(no_args_is_help=True, help="Limits and memory needs per class of device.")

PresetName = Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name.")]
ModelOrFolder = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id, name, name@version, or a model's folder.")
]


@app.command("list")
def list_(output: Out = Output.TABLE) -> None:
    """List the presets of this release and those of DF_PRESETS_DIR."""
    from cli.presets.catalogue import gigabytes, load_presets, megapixels

    presets = load_presets().values()
    rows = (
        (
            f"{preset.name}@{preset.version}",
            preset.device,
            gigabytes(preset.memory_bytes),
            preset.dtype,
            megapixels(preset.max_pixels),
            megapixels(preset.max_pixels_for(None)),
            preset.max_steps,
            f"{preset.timeout_s:g} s",
        )
        for preset in presets
    )
    print_list(
        [preset.model_dump(mode="json") for preset in presets],
        output,
        ("preset", "device", "memory", "dtype", "largest", "enlarged", "steps", "timeout"),
        rows,
    )


@app.command()
def show(name: PresetName, output: Out = Output.TABLE) -> None:
    """Show one preset and what it says about each kind of model."""
    from cli.presets.catalogue import get_preset, gigabytes, load_presets, megapixels

    preset = get_preset(load_presets(), name)
    if output is Output.JSON:
        print_json(preset.model_dump(mode="json"))
        return
    print_pairs(*((field, value) for field, value in preset if field != "kinds"))
    rows = []
    for kind, need in preset.kinds.items():
        spec, decode_bytes = preset.budget_for(kind).spec, need.decode_bytes_per_pixel
        rows.append(
            (
                kind,
                spec.dtype,
                spec.storage_dtype or "-",
                spec.offload,
                gigabytes(need.base_bytes),
                gigabytes(need.bytes_per_pixel * 10**6),
                gigabytes(decode_bytes * 10**6) if decode_bytes else "-",
                "yes" if spec.vae_tiling and decode_bytes else "-",
                megapixels(preset.max_pixels_for(kind)),
            )
        )
    print_table(
        (
            *("kind", "dtype", "held as", "offload", "memory"),
            *("per MP", "decode, per MP", "tiles", "largest"),
        ),
        rows,
    )


@app.command()
def fit(
    model: ModelOrFolder, width: Width = None, height: Height = None, output: Out = Output.TABLE
) -> None:
    """Say which presets can make a picture of this size with a model; default: its own size.

    Of an upscaler the size is that of the picture that it is given.
    """
    from cli.presets.catalogue import check_preset, gigabytes, load_presets, load_workload

    workload = load_workload(model, width, height)
    fits = [check_preset(preset, workload) for preset in load_presets().values()]
    rows = (
        (
            fit.preset.name,
            "-" if fit.need_bytes is None else gigabytes(fit.need_bytes),
            gigabytes(fit.preset.memory_bytes),
            fit.problem or "fits",
        )
        for fit in fits
    )
    heads = ("preset", "needs", "has", workload.size)
    print_list([fit.as_json() for fit in fits], output, heads, rows)


@app.command()
def measure(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="A model with its dreamforge.json.")
    ],
    preset: Annotated[str, typer.Option(help="Whose device, dtype and offload mode are used.")],
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", help="WIDTHxHEIGHT, of an upscaler what it is given; two or more."),
    ] = None,
    output: Out = Output.TABLE,
) -> None:
    """Run a model on this machine's device and print what a preset should say about it.

    Stop the worker first: what it allocates meanwhile would be counted as the model's.
    """
    from cli.presets.catalogue import get_preset, gigabytes, load_presets
    from cli.presets.measure import measure_model, parse_size

    kind, peaks, need = measure_model(
        folder, get_preset(load_presets(), preset), [parse_size(size) for size in sizes or []]
    )
    if output is Output.JSON:
        print_json(
            {
                "kind": kind,
                "peaks": [{"pixels": p.pixels, "peak_bytes": p.peak_bytes} for p in peaks],
                "base_bytes": need.base_bytes,
                "bytes_per_pixel": need.bytes_per_pixel,
            }
        )
        return
    print_table(("pixels", "peak"), [(peak.pixels, gigabytes(peak.peak_bytes)) for peak in peaks])
    print_line(f"[kinds.{kind}]")
    print_line(f"base_bytes = {need.base_bytes}")
    print_line(f"bytes_per_pixel = {need.bytes_per_pixel}")
