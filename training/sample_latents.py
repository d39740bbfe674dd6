"""Sample latents for every concept with the trained UNet, for the decoder's last lesson.

    python -m training.sample_latents --work training/work --per-concept 3

Seeds start at 100, so that what the evaluation and the card show (seeds from 0) was never seen.
"""

import argparse
import json

import torch
from training.assemble import GUIDANCE, STEPS, build_pipeline
from training.console import device_arguments, say, set_up_device, work_argument
from training.train_autoencoder import SAMPLED

_FIRST_SEED = 100
_AT_A_TIME = 25


def main() -> None:
    """Write sampled.pt: latents (N, 16, 8, 8) and the number of the picture each should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    parser.add_argument("--per-concept", type=int, default=3)
    args = parser.parse_args()
    device = set_up_device(args)
    pipeline = build_pipeline(args.work).to(device)
    pipeline.set_progress_bar_config(disable=True)
    concepts = json.loads((args.work / "concepts.json").read_text(encoding="utf-8"))
    todo = [
        (number, seed)
        for seed in range(_FIRST_SEED, _FIRST_SEED + args.per_concept)
        for number in range(len(concepts))
    ]
    parts = []
    for start in range(0, len(todo), _AT_A_TIME):
        part = todo[start : start + _AT_A_TIME]
        output = pipeline(
            [concepts[number]["name"] for number, _ in part],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for _, seed in part],
            output_type="latent",
        )
        parts.append(output.images.cpu())
        say(f"{start + len(part)} of {len(todo)} sampled")
    pictures = torch.tensor([number for number, _ in todo])
    torch.save({"latents": torch.cat(parts), "pictures": pictures}, args.work / SAMPLED)


if __name__ == "__main__":
    main()
