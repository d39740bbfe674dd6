"""Make the upscaler's pictures: all concepts rendered at 64 and at 256, some drawn as well.

    python -m training.prepare_upscaler --work training/work

The rendered pairs teach it to enlarge; those that the demo model draws, with the picture as target
that it was taught, teach what its pictures lack. Seed 100 is never used in an evaluation or a card.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from training.concepts import HERE, read_concepts
from training.console import device_arguments, say, set_up_device, work_argument
from training.evaluate import load, make
from training.prepare import SIZE, WHITE, gather, on_background, render
from training.upscaler import CONCEPTS, DRAWN, LARGE, SCALE, SMALL

DRAWN_SEED = 100


def _save(path: Path, pictures: list[Image.Image]) -> None:
    np.save(path, np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))


def main() -> None:
    """Write the three arrays and the names; what the demo model knows comes first."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    parser.add_argument("--model", type=Path, default=Path("models/sd/dreamforge-demo@1"))
    args = parser.parse_args()
    known = read_concepts(HERE / "concepts.txt", large=False)
    labels = {concept.label for concept in known}
    later = [c for c in read_concepts(HERE / "concepts.txt", large=True) if c.label not in labels]
    paths = [path for _, path in gather([*known, *later], args.work / "downloads")]
    for name, side in ((SMALL, SIZE), (LARGE, SIZE * SCALE)):
        _save(args.work / name, [on_background(render(path, side), WHITE) for path in paths])
    names = [concept.name for concept in [*known, *later]]
    (args.work / CONCEPTS).write_text(json.dumps(names), encoding="utf-8")
    say(f"{len(paths)} pictures rendered; drawing {len(known)}")
    pipeline = load(args.model, set_up_device(args))
    _save(args.work / DRAWN, make(pipeline, names[: len(known)], DRAWN_SEED))
    say(f"pairs of {len(paths)} things in {args.work}")


if __name__ == "__main__":
    main()
