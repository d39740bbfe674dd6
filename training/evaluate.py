"""Measure the assembled model: is the picture nearest to what comes out the one asked for?

    python -m training.evaluate --work training/work --model models/sd/dreamforge-demo@1

Retrieval: every concept's name, seed 0; the picture nearest in mean squared error over 64x64x3 must
be that concept's. Paraphrases: the same for the held-out file. Pictures come from the pipeline's
own call, several prompts at a time, each with its own generator, as a single request would have it.
"""

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from training.assemble import GUIDANCE, STEPS
from training.concepts import HERE, read_paraphrases
from training.console import device_arguments, say, set_up_device, work_argument

Pixels = NDArray[np.float32]
_AT_A_TIME = 25


def load(model: Path, device: torch.device) -> Any:
    """The pipeline, offline and quiet."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    pipeline = DiffusionPipeline.from_pretrained(
        model, local_files_only=True, use_safetensors=True
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make(pipeline: Any, prompts: list[str], seed: int) -> list[Image.Image]:
    """One picture for each prompt, each from `seed`."""
    made: list[Image.Image] = []
    for start in range(0, len(prompts), _AT_A_TIME):
        part = prompts[start : start + _AT_A_TIME]
        generators = [torch.Generator().manual_seed(seed) for _ in part]
        made += pipeline(
            part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators
        ).images
    return made


def pixels(images: list[Image.Image]) -> Pixels:
    """(N, 64 * 64 * 3) in 0..1."""
    stacked = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    flat: Pixels = stacked.reshape(len(images), -1) / np.float32(255)
    return flat


def distances(made: Pixels, known: Pixels) -> Pixels:
    """Mean squared error of every made picture (rows) to every known one (columns)."""
    squares = (made**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * made @ known.T
    mean: Pixels = np.maximum(squares / made.shape[1], 1e-12).astype(np.float32)
    return mean


def wall(made: NDArray[np.uint8], columns: int = 25) -> Image.Image:
    """All of them side by side, row by row."""
    side = made.shape[1]
    canvas = Image.new("RGB", (columns * side, -(-len(made) // columns) * side), "white")
    for number, picture in enumerate(made):
        canvas.paste(Image.fromarray(picture), (number % columns * side, number // columns * side))
    return canvas


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one list of prompts went; `psnr_db` compares with the picture that was meant."""

    prompts: int
    correct: int
    accuracy: float
    median_psnr_db: float
    worst_psnr_db: float
    wrong: list[dict[str, str]]


def score(
    prompts: list[str], targets: list[int], made: Pixels, known: Pixels, names: list[str]
) -> Result:
    """Compare what was made with the known pictures."""
    distance = distances(made, known)
    nearest = distance.argmin(1)
    psnr = -10 * np.log10(distance[np.arange(len(targets)), targets])
    wrong = [
        {"prompt": prompt, "wanted": names[target], "nearest": names[match]}
        for prompt, target, match in zip(prompts, targets, nearest.tolist(), strict=True)
        if target != match
    ]
    correct = len(prompts) - len(wrong)
    return Result(
        prompts=len(prompts),
        correct=correct,
        accuracy=round(correct / len(prompts), 4),
        median_psnr_db=round(float(np.median(psnr)), 2),
        worst_psnr_db=round(float(psnr.min()), 2),
        wrong=wrong,
    )


def main() -> None:
    """Write evaluation.json and everything.jpg, and say the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    parser.add_argument("--model", type=Path, default=Path("models/sd/dreamforge-demo@1"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "evaluation.json")
    args = parser.parse_args()
    pipeline = load(args.model, set_up_device(args))
    concepts = json.loads((args.work / "concepts.json").read_text(encoding="utf-8"))
    names = [concept["name"] for concept in concepts]
    known = np.load(args.work / "images.npy")[: len(names)]
    flat = known.reshape(len(names), -1).astype(np.float32) / 255
    paraphrases = read_paraphrases(HERE / "paraphrases.tsv")
    synonyms = [(word, n) for n, c in enumerate(concepts) for word in c["synonyms"]]
    lists = {
        "names": (names, list(range(len(names)))),
        "paraphrases": (
            [text for text, _ in paraphrases],
            [names.index(n) for _, n in paraphrases],
        ),
        "synonyms": ([word for word, _ in synonyms], [n for _, n in synonyms]),
    }
    results = {}
    for title, (prompts, targets) in lists.items():
        made = make(pipeline, prompts, args.seed)
        results[title] = asdict(score(prompts, targets, pixels(made), flat, names))
        say(f"{title}: {results[title]}")
        np.save(args.work / f"made_{title}.npy", np.stack([np.asarray(image) for image in made]))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    everything = wall(np.load(args.work / "made_names.npy"))
    everything.save(args.output.with_name("everything.jpg"), quality=85)
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
