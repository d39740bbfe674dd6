"""Turn the packages into training data: `images.npy` (N, 64, 64, 3) uint8, and what they show.

    python -m training.prepare --work training/work
    python -m training.prepare --work training/work --all-concepts --variants 12   # on a GPU

`concepts.json` holds the words of each concept; `rows.json` says for every picture of `images.npy`
which concept it shows and on which background ("white" is not mentioned in captions: null).
The first rows are the plain pictures, one for each concept, in the order of `concepts.json`.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from training.concepts import HERE, Concept, normalise, read_concepts
from training.console import say, work_argument
from training.fetch import CAPTIONS, PICTURES

SIZE = 64
WHITE = (255, 255, 255)
BACKGROUNDS = {
    "black": (24, 24, 28), "grey": (150, 150, 156), "red": (220, 60, 60), "orange": (245, 150, 60),
    "yellow": (250, 220, 90), "green": (90, 180, 100), "blue": (80, 140, 230),
    "purple": (150, 100, 210), "pink": (245, 160, 200),
}  # fmt: skip
_VARIATION_SELECTOR = "-fe0f"


def render(path: Path, size: int = SIZE) -> Image.Image:
    """The picture at `size` pixels a side, RGBA.

    Pillow premultiplies alpha when it resizes RGBA, so transparent pixels leave no dark fringe.
    """
    return Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)


def on_background(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The RGBA picture on a plain background, RGB."""
    canvas = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(canvas, picture).convert("RGB")


def vary(picture: Image.Image, dice: random.Random) -> tuple[Image.Image, str | None]:
    """A flipped, smaller, shifted copy on a random background, and the background's name."""
    if dice.random() < 0.5:
        picture = ImageOps.mirror(picture)
    size = round(SIZE * dice.uniform(0.65, 1.0))
    small = picture.resize((size, size), Image.Resampling.LANCZOS)
    moved = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    moved.paste(small, (dice.randint(0, SIZE - size), dice.randint(0, SIZE - size)))
    name = dice.choice([None, *BACKGROUNDS])
    return on_background(moved, BACKGROUNDS[name] if name else WHITE), name


def _files_by_code(assets: Path) -> dict[str, Path]:
    files = sorted(assets.glob("*.webp"))
    return {path.stem.replace(_VARIATION_SELECTOR, ""): path for path in files}


def _record(concept: Concept, emoji: dict[str, Any], picture: Path) -> dict[str, Any]:
    return {
        "name": concept.name,
        "label": concept.label,
        "synonyms": list(concept.synonyms),
        "tags": sorted({normalise(tag) for tag in emoji.get("tags", [])}),
        "file": picture.name,
    }


def gather(concepts: list[Concept], downloads: Path) -> list[tuple[dict[str, Any], Path]]:
    """A record and a picture file for every concept, in order; KeyError for an unknown one."""
    emojis = json.loads((downloads / CAPTIONS.folder / "en/data.json").read_text(encoding="utf-8"))
    by_label = {emoji["label"]: emoji for emoji in emojis}
    files = _files_by_code(downloads / PICTURES.folder / "assets")
    sources = []
    for concept in concepts:
        emoji = by_label[concept.label]
        picture = files[emoji["hexcode"].lower().replace(_VARIATION_SELECTOR, "")]
        sources.append((_record(concept, emoji, picture), picture))
    return sources


def save(
    work: Path,
    pictures: list[Image.Image],
    concepts: list[dict[str, Any]],
    rows: list[dict[str, Any]],
) -> None:
    """The three files that the trainings read."""
    np.save(work / "images.npy", np.stack([np.asarray(picture) for picture in pictures]))
    (work / "concepts.json").write_text(json.dumps(concepts, indent=1), encoding="utf-8")
    (work / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def main() -> None:
    """Write images.npy, concepts.json and rows.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    parser.add_argument("--all-concepts", action="store_true", help="also those marked ~")
    parser.add_argument("--variants", type=int, default=0, help="augmented copies of each picture")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    concepts = read_concepts(HERE / "concepts.txt", large=args.all_concepts)
    sources = gather(concepts, args.work / "downloads")
    dice = random.Random(args.seed)
    plain = [render(path) for _, path in sources]
    pictures = [on_background(picture, WHITE) for picture in plain]
    rows: list[dict[str, Any]] = [{"concept": n, "background": None} for n in range(len(plain))]
    for _ in range(args.variants):
        for number, picture in enumerate(plain):
            varied, background = vary(picture, dice)
            pictures.append(varied)
            rows.append({"concept": number, "background": background})
    save(args.work, pictures, [record for record, _ in sources], rows)
    say(f"{len(pictures)} pictures of {len(sources)} concepts in {args.work}")


if __name__ == "__main__":
    main()
