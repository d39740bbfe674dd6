"""Put the trained parts together as a stock `StableDiffusionPipeline` folder with its descriptor.

    python -m training.assemble --work training/work --target models/sd/dreamforge-demo@1

Needs the project itself installed: the descriptor is written by `shared.models.describe`.
"""

import argparse
import json
import shutil
import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from training.autoencoder import build_autoencoder, load_average
from training.concepts import HERE
from training.console import say, work_argument
from training.pipeline_parts import build_scheduler, load_tokenizer
from training.train_autoencoder import CHECKPOINT as AUTOENCODER_CHECKPOINT
from training.train_autoencoder import DECODER_CHECKPOINT
from training.train_diffusion import CHECKPOINT as DIFFUSION_CHECKPOINT
from training.train_diffusion import Denoiser

from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Defaults, Limits, Range, Source
from shared.models.verify import write_descriptor

STEPS, GUIDANCE, SIDE, MAX_STEPS = 20, 3.0, 64, 50
# AutoencoderTiny writes these two to its config and then warns that it does not know them.
_NOT_ARGUMENTS = ("block_out_channels", "force_upcast")


def trained_autoencoder(work: Path) -> AutoencoderTiny:
    """The averaged autoencoder, with the sharpened decoder where there is one."""
    autoencoder = build_autoencoder()
    sharpened = work / DECODER_CHECKPOINT
    load_average(autoencoder, sharpened if sharpened.exists() else work / AUTOENCODER_CHECKPOINT)
    return autoencoder


def build_pipeline(work: Path) -> StableDiffusionPipeline:
    """The pipeline in float32, from the checkpoints in `work`."""
    tokenizer = load_tokenizer(work / "tokenizer")
    denoiser = Denoiser(tokenizer)
    state = torch.load(work / DIFFUSION_CHECKPOINT, map_location="cpu", weights_only=True)
    denoiser.load_state_dict(state["average"])
    return StableDiffusionPipeline(
        vae=trained_autoencoder(work).eval(),
        text_encoder=denoiser.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=denoiser.unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _edit(path: Path, change: dict[str, Any], remove: tuple[str, ...] = ()) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in (content | change).items() if key not in remove}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def save_weights(pipeline: StableDiffusionPipeline, work: Path, target: Path) -> None:
    """Write the pipeline's own files: half precision, plain configuration, readable by all."""
    pipeline.to(torch.float16).save_pretrained(target, safe_serialization=True)
    # transformers keeps a half precision text encoder as it is; diffusers loads the rest in single.
    _edit(target / "text_encoder/config.json", {"dtype": "float32"})
    _edit(target / "vae/config.json", {"force_upcast": False}, remove=_NOT_ARGUMENTS)
    # transformers 5 writes tokenizer.json alone; these two are what every older version reads.
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(work / "tokenizer" / name, target / "tokenizer" / name)


def describe(target: Path, vocabulary: list[str]) -> None:
    """Write `dreamforge.json` over everything that is in the folder by now."""
    name, _, version = target.name.partition("@")
    side = Range(min=SIDE, max=SIDE)
    descriptor = describe_folder(
        target,
        DescriptorInput(
            name=name,
            version=version,
            source=Source(uri="dreamforge:training"),
            kind="sd",
            license="MIT",
            defaults=Defaults(width=SIDE, height=SIDE, steps=STEPS, guidance=GUIDANCE),
            limits=Limits(width=side, height=side, steps=Range(min=1, max=MAX_STEPS)),
            vocabulary=tuple(vocabulary),
        ),
    )
    write_descriptor(target, descriptor)


def assemble(work: Path, target: Path, card: Path) -> None:
    """Make `target` afresh from the checkpoints in `work` and the texts in `card`.

    The card's README ends with the heading under which everything that the model knows is listed.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half precision on a CPU is for storage here
        save_weights(build_pipeline(work), work, target)
    concepts = json.loads((work / "concepts.json").read_text(encoding="utf-8"))
    vocabulary = sorted(concept["name"] for concept in concepts)
    (target / "vocabulary.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    synonyms = sorted(f"{word}\t{c['name']}" for c in concepts for word in c["synonyms"])
    (target / "synonyms.txt").write_text("\n".join([*synonyms, ""]), encoding="utf-8")
    shutil.copytree(card, target, dirs_exist_ok=True)
    with (target / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(textwrap.fill(", ".join(vocabulary), width=100) + ".\n")
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    describe(target, vocabulary)


def main() -> None:
    """Assemble, and say how large the folder is."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    parser.add_argument("--target", type=Path, default=Path("models/sd/dreamforge-demo@1"))
    parser.add_argument("--card", type=Path, default=HERE / "card", help="README and licences")
    args = parser.parse_args()
    assemble(args.work, args.target, args.card)
    size = sum(path.stat().st_size for path in args.target.rglob("*") if path.is_file())
    say(f"{args.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
