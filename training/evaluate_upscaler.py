"""Measure the upscaler beside plain resampling, on pictures that it never saw, and show them.

    python -m training.evaluate_upscaler --work training/work

Every tenth thing of the demo model was left out of the training. Each is enlarged from its
rendering at 64x64 and from what the demo model draws of it with seed 0; the measure is the
rendering at 256x256. What is measured is the assembled model, through Dream Forge's own upscaler.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional
from training.concepts import HERE
from training.console import device_arguments, say, set_up_device, work_argument
from training.evaluate import load, make
from training.upscaler import SCALE, Pairs, load_pairs

from runner.upscalers.gan import GanUpscaler
from runner.upscalers.networks import load_network
from shared.models.folder import ONE_FILE
from shared.models.verify import read_model
from shared.protocol.messages import GanParams, InputSpec, ModelSpec, PresetSpec

Enlarge = Callable[[Image.Image], Image.Image]
MODEL = Path("models/network/dreamforge-upscaler@1")
_SHOWN = 10  # the first of those that were held out: not chosen by how well they look
_MARGIN, _LETTERS = 6, 14


def ours(model: Path) -> Enlarge:
    """The assembled model as a step loads it."""
    descriptor = read_model(model)
    spec = ModelSpec(
        id="evaluation",
        name=descriptor.name,
        version=descriptor.version,
        kind=descriptor.kind,
        folder=str(model),
        checkpoint_sha256=descriptor.checkpoint_sha256,
    )
    upscaler = GanUpscaler(
        load_network(model / ONE_FILE),
        spec,
        GanParams(scale=SCALE, native_scale=SCALE),
        PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1),
    )

    def enlarge(image: Image.Image) -> Image.Image:
        source = InputSpec(
            item_index=0, format="png", width=image.width, height=image.height, seed=0,
            sha256="0" * 64,
        )  # fmt: skip
        return upscaler.enlarge(image, source, lambda done, total: None)

    return enlarge


def by(method: Image.Resampling) -> Enlarge:
    """Plain resampling."""
    return lambda image: image.resize((image.width * SCALE, image.height * SCALE), method)


def psnr_db(made: Tensor, wanted: Tensor) -> float:
    """Signal to noise over all pixels and colours."""
    return float(-10 * (made - wanted).square().mean().clamp_min(1e-12).log10())


def ssim(made: Tensor, wanted: Tensor) -> float:
    """Structural similarity of the brightness, as Wang et al. (2004) define it: a Gaussian window
    of 11 pixels, deviation 1.5."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    a, b = ((picture * weights).sum(0)[None, None] for picture in (made, wanted))
    bell = torch.exp(-(torch.arange(11) - 5.0).square() / (2 * 1.5**2))
    window = (bell[:, None] * bell[None] / bell.sum() ** 2)[None, None]

    def blurred(picture: Tensor) -> Tensor:
        return functional.conv2d(picture, window)

    mean_a, mean_b = blurred(a), blurred(b)
    spread_a, spread_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    shared = blurred(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    shape = (2 * shared + 0.03**2) / (spread_a + spread_b + 0.03**2)
    return float((light * shape).mean())


def measure(enlarge: Enlarge, small: list[Image.Image], large: list[Image.Image]) -> dict[str, Any]:
    """Medians over the pictures, which resist the one that went wrong or came out perfectly."""
    pairs = [
        (_colours(enlarge(one)), _colours(other)) for one, other in zip(small, large, strict=True)
    ]
    return {
        "pictures": len(pairs),
        "median_psnr_db": round(float(np.median([psnr_db(*pair) for pair in pairs])), 2),
        "worst_psnr_db": round(min(psnr_db(*pair) for pair in pairs), 2),
        "median_ssim": round(float(np.median([ssim(*pair) for pair in pairs])), 4),
    }


def sheet(rows: list[tuple[str, list[Image.Image]]], titles: list[str]) -> Image.Image:
    """One thing a row, one way to enlarge it a column, at full size."""
    side = rows[0][1][-1].width + _MARGIN
    canvas = Image.new("RGB", (len(titles) * side, len(rows) * (side + _LETTERS) + 20), "white")
    pen = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        pen.text((column * side + 4, 4), title, fill="black")
    for number, (name, pictures) in enumerate(rows):
        top = 20 + number * (side + _LETTERS)
        pen.text((4, top), name, fill="black")
        for column, picture in enumerate(pictures):
            canvas.paste(picture, (column * side, top + _LETTERS))
    return canvas


def _colours(image: Image.Image) -> Tensor:
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _images(pictures: Tensor, rows: list[int]) -> list[Image.Image]:
    return [Image.fromarray(pictures[row].permute(1, 2, 0).numpy()) for row in rows]


def _sheet_of(pairs: Pairs, ways: dict[str, Enlarge], drawn: list[Image.Image]) -> Image.Image:
    """The first held-out things: what the demo model draws, enlarged, and what it was taught."""
    shown = pairs.held_out[:_SHOWN]
    rows = [
        (pairs.names[row], [*(enlarge(small) for enlarge in ways.values()), original])
        for row, small, original in zip(
            shown, drawn[:_SHOWN], _images(pairs.large, shown), strict=True
        )
    ]
    return sheet(rows, [*ways, "the original"])


def main() -> None:
    """Write results/upscaler.json and the sheet of the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--demo", type=Path, default=Path("models/sd/dreamforge-demo@1"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "upscaler.json")
    parser.add_argument("--sheet", type=Path, default=HERE / "card_upscaler" / "samples.png")
    args = parser.parse_args()
    device, pairs = set_up_device(args), load_pairs(args.work)
    held_out = pairs.held_out
    ways = {
        "pixels": by(Image.Resampling.NEAREST),
        "bicubic": by(Image.Resampling.BICUBIC),
        "Lanczos": by(Image.Resampling.LANCZOS),
        "this model": ours(args.model),
    }
    names = [pairs.names[row] for row in held_out]
    drawn = make(load(args.demo, device), names, args.seed)
    large = _images(pairs.large, held_out)
    results = {
        title: {way: measure(enlarge, small, large) for way, enlarge in ways.items()}
        for title, small in (("rendered", _images(pairs.small, held_out)), ("drawn", drawn))
    }
    say(json.dumps(results))
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    _sheet_of(pairs, ways, drawn).save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()
