"""What a watcher costs: a picture with previews and without, by turns in one run.

`python -m benchmarks.previews.measure [--pairs N] [--steps N]` starts a whole stack in a temporary
folder. A pair is two jobs of several pictures, one after the other, each with a stream open; one
stream wants previews. The figure is the mean time from one picture to the next, by the events' own
times, so that the load of the model is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from benchmarks.end_of_step.measure import ROOT, running
from httpx_sse import connect_sse

PICTURES = 4
SILENCE_S = 60.0


@dataclass(frozen=True)
class Watched:
    picture_s: float
    previews: int
    preview_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, running(ROOT, Path(folder, "home")) as api:
        watch(api, arguments.steps, previews=True)  # the first one reads its files from the disk
        pairs = [pair(api, arguments.steps, number) for number in range(arguments.pairs)]
    print_figures(pairs, load)


def pair(api: httpx.Client, steps: int, number: int) -> tuple[Watched, Watched]:
    """Without previews, and with them; which is first changes from pair to pair."""
    order = (False, True) if number % 2 else (True, False)
    by_mode = {previews: watch(api, steps, previews=previews) for previews in order}
    return by_mode[False], by_mode[True]


def watch(api: httpx.Client, steps: int, *, previews: bool) -> Watched:
    body = {"type": "generate", "prompt": "red apple", "seed": 1}
    body |= {"count": PICTURES, "steps": steps}
    job = api.post("/v1/jobs", json=body).raise_for_status().json()["job"]["id"]
    shown, stored = [], []
    for kind, data in events(api, job, previews):
        if kind == "preview":
            shown.append(len(data["image"]))
        elif data["code"] == "artifact.written":
            stored.append(datetime.fromisoformat(data["ts"]))
    assert len(stored) == PICTURES, f"job {job} has {len(stored)} pictures"
    picture_s = (stored[-1] - stored[0]).total_seconds() / (PICTURES - 1)
    return Watched(picture_s, len(shown), sum(shown))


def events(api: httpx.Client, job: str, previews: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    path = f"/v1/jobs/{job}/progress/stream"
    params = {"previews": str(previews).lower()}
    with connect_sse(api, "GET", path, params=params, timeout=SILENCE_S) as stream:
        for message in stream.iter_sse():
            if message.data:
                yield message.event, json.loads(message.data)


def print_figures(pairs: list[tuple[Watched, Watched]], load: float) -> None:
    ratios = sorted(with_.picture_s / without.picture_s for without, with_ in pairs)
    without_s, with_s = (statistics.median(each[n].picture_s for each in pairs) for n in (0, 1))
    shown = sum(with_.previews for _, with_ in pairs)
    size = sum(with_.preview_bytes for _, with_ in pairs) / max(1, shown)
    assert not any(without.previews for without, _ in pairs)
    lines = [
        f"load {load:.1f} before, {os.getloadavg()[0]:.1f} after; {len(pairs)} pairs",
        f"seconds a picture, median: {without_s:.3f} without, {with_s:.3f} with previews",
        f"with / without: {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}",
        f"previews a picture: {shown / len(pairs) / PICTURES:.1f}, {size:.0f} bytes each",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
