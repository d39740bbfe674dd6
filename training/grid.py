"""The sheet of honest samples for the model card: known and unknown prompts, with their seeds.

python -m training.grid --model models/sd/dreamforge-demo@1
"""

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw
from training.concepts import HERE
from training.console import device_arguments, say, set_up_device
from training.evaluate import load, make

_CELL_WIDTH, _CELL_HEIGHT, _PICTURE = 140, 164, 128
_LINE_LETTERS = 24


def sheet(cells: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Pictures at twice their size, plainly enlarged, with their captions below."""
    rows = -(-len(cells) // columns)
    canvas = Image.new("RGB", (columns * _CELL_WIDTH, rows * _CELL_HEIGHT), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (text, picture) in enumerate(cells):
        left, top = number % columns * _CELL_WIDTH, number // columns * _CELL_HEIGHT
        large = picture.resize((_PICTURE, _PICTURE), Image.Resampling.NEAREST)
        canvas.paste(large, (left + (_CELL_WIDTH - _PICTURE) // 2, top))
        lines = textwrap.fill(text, width=_LINE_LETTERS)
        draw.multiline_text((left + 6, top + _PICTURE + 4), lines, fill="black")
    return canvas


def read_prompts(path: Path) -> list[tuple[str, int]]:
    """Lines `prompt <tab> seed`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return [(prompt, int(seed)) for prompt, seed in rows]


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    device_arguments(parser)
    parser.add_argument("--model", type=Path, default=Path("models/sd/dreamforge-demo@1"))
    parser.add_argument("--prompts", type=Path, default=HERE / "samples.tsv")
    parser.add_argument("--output", type=Path, default=HERE / "card" / "samples.png")
    parser.add_argument("--columns", type=int, default=8)
    args = parser.parse_args()
    pipeline = load(args.model, set_up_device(args))
    cells = [
        (f"{prompt} ({seed})", make(pipeline, [prompt], seed)[0])
        for prompt, seed in read_prompts(args.prompts)
    ]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    sheet(cells, args.columns).save(args.output, optimize=True)
    say(f"{len(cells)} samples in {args.output}")


if __name__ == "__main__":
    main()
