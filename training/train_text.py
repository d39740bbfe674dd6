"""Teach the text encoder which picture a caption means, before the UNet sees its first word.

    python -m training.train_text --work training/work

What the encoder says at and after the end of a caption must give, by one linear map each, the
picture's latents in their principal axes, and the concept. So the code of a caption already *is* a
rough picture, the UNet has only to learn to draw it, and the many ways to ask for the same thing
are learnt here, where a caption costs a fiftieth of what it costs there. Measured on two busy CPU
threads: learning both at once, the UNet still ignored its captions after 300 steps.
"""

import argparse
import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from training.autoencoder import encode_all
from training.captions import Captions
from training.concepts import HERE, read_paraphrases
from training.console import device_arguments, say, set_up_device, work_argument
from training.loop import MovingAverage, Training, schedule_arguments, schedule_of
from training.pipeline_parts import (
    TEXT_WIDTH,
    build_text_encoder,
    load_tokenizer,
    tokenize,
    train_tokenizer,
)
from training.train_autoencoder import CHECKPOINT as AUTOENCODER_CHECKPOINT
from transformers import CLIPTextModel, CLIPTokenizer

CHECKPOINT = "text.pt"


def principal_axes(latents: Tensor, axes: int) -> Tensor:
    """The latents (N, ...) in their `axes` strongest directions, scaled to mean square 1."""
    centred = (latents - latents.mean(0)).flatten(1)
    left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
    codes: Tensor = (left * strength)[:, :axes]
    scaled: Tensor = codes / codes.square().mean().sqrt()
    return scaled


def pooled(hidden: Tensor, ids: Tensor, end: int) -> Tensor:
    """The mean over the end of the text and the padding, which repeats the end token."""
    at_end = (ids == end).unsqueeze(-1)
    mean: Tensor = (hidden * at_end).sum(1) / at_end.sum(1)
    return mean


class TextLesson(nn.Module):
    """The text encoder with the two maps that it is trained through; only it is kept."""

    def __init__(self, tokenizer: CLIPTokenizer, axes: int, concepts: int) -> None:
        super().__init__()
        self.end = tokenizer.eos_token_id
        self.text_encoder: CLIPTextModel = build_text_encoder(tokenizer)
        self.to_picture = nn.Linear(TEXT_WIDTH, axes)
        self.to_concept = nn.Linear(TEXT_WIDTH, concepts)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted codes and concept logits."""
        code = pooled(self.text_encoder(ids).last_hidden_state, ids, self.end)
        return self.to_picture(code), self.to_concept(code)


@torch.inference_mode()
def understood_share(
    lesson: TextLesson,
    tokenizer: CLIPTokenizer,
    paraphrases: list[tuple[str, str]],
    concepts: list[dict[str, Any]],
) -> float:
    """The share of held-out paraphrases whose concept comes first; 0 where none is known."""
    numbers = {concept["name"]: number for number, concept in enumerate(concepts)}
    known = [(text, numbers[name]) for text, name in paraphrases if name in numbers]
    if not known:
        return 0.0
    ids = tokenize(tokenizer, [text for text, _ in known]).to(lesson.to_concept.weight.device)
    first = lesson(ids)[1].argmax(1).tolist()
    right = sum(predicted == target for predicted, (_, target) in zip(first, known, strict=True))
    return float(right) / len(known)


def main() -> None:
    """Train, then say how many held-out paraphrases are understood."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    schedule_arguments(parser, learning_rate=2e-3, minutes=4)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    device = set_up_device(args)
    concepts = json.loads((args.work / "concepts.json").read_text(encoding="utf-8"))
    paraphrases = read_paraphrases(HERE / "paraphrases.tsv")
    captions = Captions(concepts, [text for text, _ in paraphrases])
    dice = random.Random(args.seed)
    folder = args.work / "tokenizer"
    known = (folder / "merges.txt").exists()  # a resumed run must read the same ids
    tokenizer = (
        load_tokenizer(folder) if known else train_tokenizer(captions.vocabulary_text(dice), folder)
    )
    pictures = torch.from_numpy(np.load(args.work / "images.npy")[: len(concepts)])
    latents = encode_all(pictures, args.work / AUTOENCODER_CHECKPOINT, device).clone()
    codes = principal_axes(latents, min(TEXT_WIDTH, len(concepts)))
    lesson = TextLesson(tokenizer, codes.shape[1], len(concepts)).to(device)

    def loss_of(generator: torch.Generator) -> Tensor:
        numbers = torch.randint(len(concepts), (args.batch,), generator=generator)
        texts = [captions.draw(number, dice) for number in numbers.tolist()]
        drawn, named = lesson(tokenize(tokenizer, texts).to(device))
        chosen = numbers.to(device)
        return functional.mse_loss(drawn, codes[chosen]) + 0.2 * functional.cross_entropy(
            named, chosen
        )

    training = Training(
        model=lesson,
        optimiser=torch.optim.AdamW(
            lesson.parameters(), lr=args.learning_rate, weight_decay=1e-3, fused=True
        ),
        schedule=schedule_of(args),
        average=MovingAverage(lesson, 0.99),
        generator=torch.Generator().manual_seed(args.seed),
        checkpoint=args.work / CHECKPOINT,
    )
    training.run(loss_of, args.batch)
    lesson.load_state_dict(training.average.weights)
    say(f"paraphrases understood: {understood_share(lesson, tokenizer, paraphrases, concepts):.1%}")


if __name__ == "__main__":
    main()
