"""Train the autoencoder; with `--decoder-only`, sharpen the decoder against a fixed encoder.

The decoder's lesson is half encoded pictures with noise, half what the UNet really makes
(`training.sample_latents`), where that is there.

    python -m training.train_autoencoder --work training/work
    python -m training.train_autoencoder --work training/work --decoder-only
"""

import argparse

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional
from training.autoencoder import build_autoencoder, load_average, pictures_to_tensor
from training.console import device_arguments, say, set_up_device, work_argument
from training.loop import MovingAverage, Training, schedule_arguments, schedule_of

CHECKPOINT = "autoencoder.pt"
DECODER_CHECKPOINT = "decoder.pt"
SAMPLED = "sampled.pt"  # what training.sample_latents writes
_MAX_SHIFT_PIXELS = 4
_SAMPLED_NOISE = 0.05  # just enough that seeds other than the sampled ones are met too


def _edges(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.diff(dim=-1), images.diff(dim=-2)


def reconstruction_loss(made: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE + half the L1 of the edges, which keeps outlines crisp."""
    edges = sum(functional.l1_loss(a, b) for a, b in zip(_edges(made), _edges(target), strict=True))
    return functional.l1_loss(made, target) + functional.mse_loss(made, target) + 0.5 * edges


def spread_loss(latents: Tensor) -> Tensor:
    """Zero when every channel has mean 0 and deviation 1, the diffusion model's assumption."""
    channels = latents.transpose(0, 1).flatten(1)
    return channels.mean(1).square().mean() + (channels.std(1) - 1).square().mean()


class Batches:
    """Random pictures, flipped and shifted by a few pixels."""

    def __init__(self, pictures: Tensor, batch: int) -> None:
        self.pictures, self.batch = pictures, batch

    def draw(self, generator: torch.Generator) -> Tensor:
        """A batch in [-1, 1]."""
        count = len(self.pictures)
        chosen = torch.randint(count, (self.batch,), generator=generator)
        images = pictures_to_tensor(self.pictures[chosen.to(self.pictures.device)])
        flip, down, right = torch.randint(1 << 16, (3,), generator=generator).tolist()
        if flip % 2:
            images = images.flip(-1)
        reach = 2 * _MAX_SHIFT_PIXELS + 1
        shifts = (down % reach - _MAX_SHIFT_PIXELS, right % reach - _MAX_SHIFT_PIXELS)
        return images.roll(shifts, dims=(-2, -1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    schedule_arguments(parser, learning_rate=2e-3, minutes=10)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--latent-noise", type=float, default=0.15)
    parser.add_argument("--decoder-only", action="store_true")
    return parser.parse_args()


def _trained_psnr(
    autoencoder: AutoencoderTiny, weights: dict[str, Tensor], target: Tensor
) -> float:
    autoencoder.load_state_dict(weights)
    with torch.inference_mode():
        errors = [
            (autoencoder.decode(autoencoder.encode(part).latents).sample.clamp(-1, 1) - part)
            .div(2)
            .square()
            .flatten(1)
            .mean(1)
            for part in torch.split(target, 64)
        ]
    return float((-10 * torch.cat(errors).log10()).median())


class AutoencoderLesson:
    """Encode, disturb, decode, compare."""

    def __init__(self, autoencoder: AutoencoderTiny, pictures: Tensor, args: argparse.Namespace):
        self.autoencoder, self.noise = autoencoder, args.latent_noise
        self.batches = Batches(pictures, args.batch)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of one batch."""
        target = self.batches.draw(generator)
        latents = self.autoencoder.encode(target).latents
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        made = self.autoencoder.decode(latents + self.noise * noise).sample
        return reconstruction_loss(made, target) + 0.1 * spread_loss(latents)


class DecoderLesson:
    """Decode fixed latents: encoded pictures with noise, and sampled ones as they are."""

    def __init__(self, autoencoder: AutoencoderTiny, pictures: Tensor, args: argparse.Namespace):
        self.autoencoder, self.batch = autoencoder, args.batch
        self.pictures = pictures_to_tensor(pictures)
        with torch.inference_mode():
            parts = [autoencoder.encode(part).latents for part in torch.split(self.pictures, 64)]
        encoded = torch.cat(parts).clone()
        self.sources = [(encoded, torch.arange(len(pictures)), args.latent_noise)]
        if (args.work / SAMPLED).exists():
            sampled = torch.load(args.work / SAMPLED, weights_only=True)
            latents = sampled["latents"].to(encoded.device)
            self.sources.append((latents, sampled["pictures"], _SAMPLED_NOISE))

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn, target = [], []
        for latents, numbers, deviation in self.sources:
            size = (self.batch // len(self.sources),)
            chosen = torch.randint(len(latents), size, generator=generator)
            noise = torch.randn((*size, *latents.shape[1:]), generator=generator)
            drawn.append(latents[chosen.to(latents.device)] + deviation * noise.to(latents.device))
            target.append(self.pictures[numbers[chosen].to(latents.device)])
        return torch.cat(drawn), torch.cat(target)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of one batch."""
        latents, target = self._draw(generator)
        return reconstruction_loss(self.autoencoder.decode(latents).sample, target)


def main() -> None:
    """Train, then say how well the pictures come back."""
    args = _arguments()
    device = set_up_device(args)
    pictures = torch.from_numpy(np.load(args.work / "images.npy")).to(device)
    autoencoder = build_autoencoder().to(device, memory_format=torch.channels_last)
    if args.decoder_only:
        load_average(autoencoder, args.work / CHECKPOINT)
        autoencoder.encoder.requires_grad_(False)
    kind = DecoderLesson if args.decoder_only else AutoencoderLesson
    lesson = kind(autoencoder, pictures, args)
    trained = [p for p in autoencoder.parameters() if p.requires_grad]
    training = Training(
        model=autoencoder,
        optimiser=torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=1e-4),
        schedule=schedule_of(args),
        average=MovingAverage(autoencoder, 0.995),
        generator=torch.Generator().manual_seed(args.seed),
        checkpoint=args.work / (DECODER_CHECKPOINT if args.decoder_only else CHECKPOINT),
    )
    training.run(lesson.loss, args.batch)
    psnr = _trained_psnr(autoencoder, training.average.weights, pictures_to_tensor(pictures))
    say(f"median PSNR of the pictures after encoding and decoding: {psnr:.2f} dB")


if __name__ == "__main__":
    main()
