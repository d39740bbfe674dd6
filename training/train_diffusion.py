"""Train the UNet on latents that are computed once, with the text encoder as it is by now.

python -m training.train_diffusion --work training/work --minutes 65
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional
from training.autoencoder import encode_all
from training.captions import Captions
from training.concepts import HERE, read_paraphrases
from training.console import device_arguments, say, set_up_device, work_argument
from training.loop import MovingAverage, Training, schedule_arguments, schedule_of
from training.pipeline_parts import (
    build_scheduler,
    build_text_encoder,
    build_unet,
    load_tokenizer,
    tokenize,
)
from training.train_autoencoder import CHECKPOINT as AUTOENCODER_CHECKPOINT
from training.train_text import CHECKPOINT as TEXT_CHECKPOINT
from transformers import CLIPTokenizer

CHECKPOINT = "diffusion.pt"


class Denoiser(nn.Module):
    """The two trained parts as one module: caption ids, noisy latents and times to velocity."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(tokenizer)
        self.unet = build_unet()

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """The predicted velocity, shaped like `noisy` (N, 16, 8, 8)."""
        text = self.text_encoder(ids).last_hidden_state
        velocity: Tensor = self.unet(noisy, times, encoder_hidden_states=text).sample
        return velocity


def trained_text(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of the text encoder, out of its own training."""
    average = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
    prefix = "text_encoder."
    return {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}


class Deck:
    """Every picture once, shuffled, then again: no picture is seen less often than another."""

    def __init__(self, count: int, dice: random.Random) -> None:
        self.count, self.dice, self.left = count, dice, list[int]()

    def draw(self, number: int) -> list[int]:
        """The next `number` cards."""
        drawn: list[int] = []
        while len(drawn) < number:
            if not self.left:
                self.left = self.dice.sample(range(self.count), self.count)
            drawn.append(self.left.pop())
        return drawn


class Examples:
    """Batches of (latents, caption ids); a tenth of the captions is empty, for guidance."""

    def __init__(
        self, latents: Tensor, rows: list[dict[str, Any]], captions: Captions, seed: int
    ) -> None:
        self.latents, self.rows, self.captions = latents, rows, captions
        self.dice = random.Random(seed)
        self.deck = Deck(len(rows), self.dice)

    def caption(self, row: dict[str, Any]) -> str:
        """What to call this picture this time."""
        if self.dice.random() < 0.1:
            return ""
        text = self.captions.draw(row["concept"], self.dice)
        background = row["background"]
        return f"{text} on a {background} background" if background else text

    def draw(self, tokenizer: CLIPTokenizer, batch: int) -> tuple[Tensor, Tensor]:
        """Latents and caption ids of one batch."""
        numbers = self.deck.draw(batch)
        captions = [self.caption(self.rows[number]) for number in numbers]
        return self.latents[numbers], tokenize(tokenizer, captions)


def spread_times(generator: torch.Generator, batch: int, steps: int) -> Tensor:
    """Random times in 0..steps, late ones more often (density grows linearly), one from each slice.

    Late is where the caption decides; early, the picture is all but there. Slices of equal weight
    keep the loss of a batch comparable with the next one's.
    """
    slices = torch.arange(batch) + torch.rand(batch, generator=generator)
    return ((slices / batch).sqrt() * steps).long().clamp(max=steps - 1)


def diffusion_loss(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    scheduler: DDIMScheduler,
    latents: Tensor,
    ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the velocity (Salimans and Ho 2022)."""
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    times = spread_times(generator, len(latents), scheduler.config.num_train_timesteps)
    times = times.to(latents.device)
    noisy = scheduler.add_noise(latents, noise, times)
    return functional.mse_loss(
        model(noisy, times, ids), scheduler.get_velocity(latents, noise, times)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    schedule_arguments(parser, learning_rate=2e-3, minutes=65)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--train-text",
        action="store_true",
        help="go on training the text encoder: it has never read of backgrounds",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    return parser.parse_args()


def main() -> None:
    """Train until the schedule is over."""
    args = _arguments()
    device = set_up_device(args)
    concepts = json.loads((args.work / "concepts.json").read_text(encoding="utf-8"))
    rows = json.loads((args.work / "rows.json").read_text(encoding="utf-8"))
    held_out = [text for text, _ in read_paraphrases(HERE / "paraphrases.tsv")]
    captions = Captions(concepts, held_out)
    tokenizer = load_tokenizer(args.work / "tokenizer")
    pictures = torch.from_numpy(np.load(args.work / "images.npy"))
    latents = encode_all(pictures, args.work / AUTOENCODER_CHECKPOINT, device).clone()
    say(f"latents: mean {latents.mean():.3f}, deviation {latents.std():.3f}")
    scheduler = build_scheduler()
    model = Denoiser(tokenizer)
    model.text_encoder.load_state_dict(trained_text(args.work / TEXT_CHECKPOINT))
    model.text_encoder.requires_grad_(args.train_text)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    call = torch.compile(model) if args.compile else model
    trained = [p for p in model.parameters() if p.requires_grad]
    training = Training(
        model=model,
        optimiser=torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=1e-3, fused=True),
        schedule=schedule_of(args),
        average=MovingAverage(model, 0.998),
        generator=torch.Generator().manual_seed(args.seed),
        checkpoint=args.work / CHECKPOINT,
    )
    examples = Examples(latents, rows, captions, args.seed)
    say(f"{len(rows)} pictures of {len(concepts)} concepts, {len(tokenizer)} tokens")

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen, ids = examples.draw(tokenizer, args.batch)
        return diffusion_loss(call, scheduler, chosen, ids.to(device), generator)

    training.run(loss_of, args.batch)


if __name__ == "__main__":
    main()
