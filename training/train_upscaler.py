"""Train the upscaler on pieces of pictures: half of them rendered, half drawn by the demo model.

python -m training.train_upscaler --work training/work
"""

import argparse

import torch
from torch import Tensor
from training.console import device_arguments, say, set_up_device, work_argument
from training.loop import MovingAverage, Training, schedule_arguments, schedule_of
from training.train_autoencoder import reconstruction_loss
from training.upscaler import SCALE, Pairs, build_upscaler, load_pairs, to_colours

CHECKPOINT = "upscaler.pt"
_PIECE = 32  # pixels of the small picture along each side


class Lesson:
    """Random pieces, every other one flipped, and how far the network is from their targets."""

    def __init__(
        self, network: torch.nn.Module, pairs: Pairs, batch: int, device: torch.device
    ) -> None:
        self.network, self.pairs, self.batch, self.device = network, pairs, batch, device
        left_out = set(pairs.held_out)
        self._taught = torch.tensor([n for n in range(len(pairs.small)) if n not in left_out])
        self._drawn = self._taught[self._taught < len(pairs.drawn)]

    def loss(self, generator: torch.Generator) -> Tensor:
        """Of one batch."""
        half = self.batch // 2
        pieces = [
            *self._pieces(self.pairs.small, self._taught, self.batch - half, generator),
            *self._pieces(self.pairs.drawn, self._drawn, half, generator),
        ]
        given, wanted = (
            to_colours(torch.stack(side).to(self.device)) for side in zip(*pieces, strict=True)
        )
        return reconstruction_loss(self.network(given), wanted)

    def _pieces(
        self, small: Tensor, choice: Tensor, count: int, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        rows = choice[torch.randint(len(choice), (count,), generator=generator)].tolist()
        reach = small.shape[-1] - _PIECE + 1
        corners = torch.randint(reach, (count, 2), generator=generator).tolist()
        flips = torch.randint(2, (count,), generator=generator).tolist()
        pieces = []
        for row, (top, left), flip in zip(rows, corners, flips, strict=True):
            pair = (
                _piece(small[row], top, left, 1),
                _piece(self.pairs.large[row], top, left, SCALE),
            )
            pieces.append((pair[0].flip(-1), pair[1].flip(-1)) if flip else pair)
        return pieces


def _piece(picture: Tensor, top: int, left: int, scale: int) -> Tensor:
    side, down, right = _PIECE * scale, top * scale, left * scale
    return picture[:, down : down + side, right : right + side]


def main() -> None:
    """Train, and say how near the held-out pictures come."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    device_arguments(parser)
    schedule_arguments(parser, learning_rate=1e-3, minutes=20)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    device = set_up_device(args)
    network, pairs = build_upscaler().to(device), load_pairs(args.work)
    training = Training(
        model=network,
        optimiser=torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=1e-4),
        schedule=schedule_of(args),
        average=MovingAverage(network, 0.998),
        generator=torch.Generator().manual_seed(args.seed),
        checkpoint=args.work / CHECKPOINT,
    )
    training.run(Lesson(network, pairs, args.batch, device).loss, args.batch)
    network.load_state_dict(training.average.weights)
    network.to("cpu")
    for title, small in (("rendered", pairs.small), ("drawn", pairs.drawn)):
        say(f"held out, {title}: median PSNR {_psnr(network, small, pairs):.2f} dB")


@torch.inference_mode()
def _psnr(network: torch.nn.Module, small: Tensor, pairs: Pairs) -> float:
    errors = [
        (network(to_colours(small[row : row + 1])).clamp(0, 1) - to_colours(pairs.large[row]))
        .square()
        .mean()
        for row in pairs.held_out
    ]
    return float(-10 * torch.stack(errors).log10().median())


if __name__ == "__main__":
    main()
