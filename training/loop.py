"""The loop that both trainings share: schedule, moving average, checkpoints, progress line.

The length of a run is a number of steps (the same seed gives the same weights on one machine) or
a number of minutes of training (what a busy machine can spare). A run that was interrupted goes on
from its last checkpoint; it sees the pictures in another order than an uninterrupted one.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training.console import say

_REPORT_EVERY_S = 15.0
_CHECKPOINT_EVERY_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and how the learning rate runs: warm-up, plateau, cosine to a thousandth."""

    learning_rate: float
    steps: int | None
    minutes: float | None
    warmup_steps: int = 100
    plateau: float = 0.3

    def progress(self, step: int, elapsed_s: float) -> float:
        """0 at the start, 1 when the run is over."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = elapsed_s / (self.minutes * 60) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def rate(self, step: int, progress: float) -> float:
        """The learning rate at `step`."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        falling = max(0.0, (progress - self.plateau) / (1 - self.plateau))
        return self.learning_rate * warm * (0.001 + 0.999 * (1 + math.cos(math.pi * falling)) / 2)


def schedule_arguments(
    parser: argparse.ArgumentParser, *, learning_rate: float, minutes: float
) -> None:
    """Add `--learning-rate`, `--steps` and `--minutes`."""
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--steps", type=int, help="length in steps; then minutes do not count")
    parser.add_argument("--minutes", type=float, default=minutes, help="length in training time")


def schedule_of(args: argparse.Namespace) -> Schedule:
    """The schedule that the arguments ask for."""
    minutes = None if args.steps else args.minutes
    return Schedule(learning_rate=args.learning_rate, steps=args.steps, minutes=minutes)


class MovingAverage:
    """Exponential moving average of a module's weights; what is shipped in the end."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; faster in the first steps, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


@dataclass(kw_only=True)
class Training:
    """One run over `loss_of(generator, step)`, resumed from `checkpoint` where that exists."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: Schedule
    average: MovingAverage
    generator: torch.Generator
    checkpoint: Path
    step: int = 0
    elapsed_s: float = 0.0

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half of it."""
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.weights,
                "optimiser": self.optimiser.state_dict(),
                "generator": self.generator.get_state(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
            },
            partial,
        )
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        """Take up the checkpoint where one exists."""
        if not self.checkpoint.exists():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        for name, value in state["average"].items():
            self.average.weights[name].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        say(f"resumed {self.checkpoint} at step {self.step}, {self.elapsed_s / 60:.1f} min")

    def _advance(self, loss_of: Callable[[torch.Generator], Tensor], progress: float) -> Tensor:
        rate = self.schedule.rate(self.step, progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        loss = loss_of(self.generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.model, self.step)
        self.step += 1
        return loss.detach()

    def run(self, loss_of: Callable[[torch.Generator], Tensor], samples_per_step: int) -> None:
        """Train to the end of the schedule; a checkpoint every two minutes and one at the end."""
        self.resume()
        last = reported = saved = time.monotonic()
        smooth: float | None = None
        since = self.step
        while (progress := self.schedule.progress(self.step, self.elapsed_s)) < 1:
            loss = self._advance(loss_of, progress).item()
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            now = time.monotonic()
            self.elapsed_s += now - last
            last = now
            if now - reported >= _REPORT_EVERY_S:
                pace_ms = 1000 * (now - reported) / ((self.step - since) * samples_per_step)
                say(
                    f"{progress:6.1%} step {self.step} loss {smooth:.4f} "
                    f"{pace_ms:.2f} ms/sample {self.elapsed_s / 60:.1f} min"
                )
                reported, since = now, self.step
            if now - saved >= _CHECKPOINT_EVERY_S:
                self.save()
                saved = now
        self.save()
        say(f"done: {self.step} steps in {self.elapsed_s / 60:.1f} min, loss {smooth}")
