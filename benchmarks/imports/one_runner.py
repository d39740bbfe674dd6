"""Spawn one runner of the tree that PYTHONPATH names; print what it took so far at three moments.

`measure.py` runs this. The runner is spawned as the worker does it, and draws one picture.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
from tests.support.runner_peer import Peer, run_spec

from shared.protocol.messages import Progress, Ready, Result

MODEL = Path("models/sd/dreamforge-demo@1").absolute()


def main() -> None:
    figures: dict[str, float] = {}
    with Peer() as peer:
        process = psutil.Process(peer.process.pid)
        peer.until(Ready)
        figures["until READY"] = cpu_s(process)
        figures["memory at READY that is its own, MiB"] = process.memory_full_info().uss / 2**20
        peer.go(run_spec(MODEL, seed=1))
        while (progress := peer.until(Progress)).stage != "load" or not progress.step:
            continue
        figures["until the model is loaded"] = cpu_s(process)
        peer.until(Result)
        figures["until RESULT"] = cpu_s(process)
    sys.stdout.write(json.dumps(figures))


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
