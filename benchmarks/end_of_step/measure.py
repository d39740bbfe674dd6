"""How long a step takes from its last artifact to its end: before and after, by turns in one run.

`python benchmarks/end_of_step/measure.py [--before COMMIT] [--jobs N]` starts two whole stacks in
temporary folders, one with the files of a commit from git, and gives each a job of one picture by
turns. The figures are the differences of the events' own times.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
# The last commit at which the scans for a runner's end were not woken by it.
BEFORE = "3ac4ea9"
BODY = {"type": "generate", "prompt": "red apple", "seed": 1}
START_S, JOB_S = 120.0, 120.0
FROM, TO = "artifact.written", "job.finish"
BETWEEN = ("gpu.reclaimed", "step.finish", TO)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE, help="a commit (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stacks:
        before = Path(folder, "before")
        check_out(arguments.before, before)
        trees = {"before": before, "after": ROOT}
        apis = {
            name: stacks.enter_context(running(tree, Path(folder, f"home-{name}")))
            for name, tree in trees.items()
        }
        spans: dict[str, list[dict[str, float]]] = {name: [] for name in apis}
        for turn in range(arguments.jobs + 1):
            for name, api in apis.items():
                measured = one_job(api)
                if turn:  # the first of each reads its files from the disk
                    spans[name].append(measured)
        print_table(spans)


def check_out(commit: str, folder: Path) -> None:
    folder.mkdir()
    archive = subprocess.run(  # noqa: S603
        ["git", "-C", str(ROOT), "archive", commit],  # noqa: S607
        check=True,
        capture_output=True,
    )
    unpack = ["tar", "-x", "-C", str(folder)]
    subprocess.run(unpack, input=archive.stdout, check=True)  # noqa: S603


@contextmanager
def running(tree: Path, home: Path) -> Iterator[httpx.Client]:
    """The whole stack of a tree; its API."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(tree / "src"), str(tree)]),
        "DF_HOME": str(home),
        "DF_API_PORT": "0",
        "DF_WORKER_PORT": "0",
        "DF_DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "cli", "up"]
    with open(home.with_suffix(".log"), "wb") as log:
        stack = subprocess.Popen(  # noqa: S603
            command, cwd=tree, env=environ, stdout=log, stderr=log
        )
    try:
        yield await_ready(home, stack)
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(60)


def await_ready(home: Path, stack: subprocess.Popen[bytes]) -> httpx.Client:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and stack.poll() is None:
        try:
            ports = json.loads((home / "ports.json").read_text())
            api = httpx.Client(base_url=f"http://127.0.0.1:{ports['api']}", trust_env=False)
            if api.get("/readyz").status_code == 200:
                return api
        except (OSError, LookupError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"the stack does not start: {home.with_suffix('.log').read_text()[-2000:]}")


def one_job(api: httpx.Client) -> dict[str, float]:
    """Milliseconds from the job's last artifact to what followed."""
    job = api.post("/v1/jobs", json=BODY).raise_for_status().json()["job"]["id"]
    deadline = time.monotonic() + JOB_S
    while (status := api.get(f"/v1/jobs/{job}").json()["status"]) in ("queued", "running"):
        if time.monotonic() > deadline:
            raise SystemExit(f"job {job} is {status}")
        time.sleep(0.1)
    lines = [json.loads(line) for line in api.get(f"/v1/jobs/{job}/logs").text.splitlines()]
    times = {line["code"]: datetime.fromisoformat(line["ts"]) for line in lines}
    return {code: (times[code] - times[FROM]).total_seconds() * 1000 for code in BETWEEN}


def print_table(spans: dict[str, list[dict[str, float]]]) -> None:
    write("| milliseconds from the last artifact, median | before | after | after / before |")
    write("|---|---|---|---|")
    for code in BETWEEN:
        old, new = (statistics.median(each[code] for each in spans[name]) for name in spans)
        write(f"| to `{code}` | {old:.0f} | {new:.0f} | {new / old:.2f} |")


def write(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
