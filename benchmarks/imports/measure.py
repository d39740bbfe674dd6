"""What a spawned runner imports, in CPU time: before and after, by turns in one run.

`python benchmarks/imports/measure.py [--before COMMIT] [--rounds N]` takes the files of a commit
from git, and spawns its runner and that of this tree by turns. Each draws one picture with the
model that ships with the project. The figures of one run belong together; read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# The last commit at which a runner imported whatever its libraries do.
BEFORE = "3ac4ea9"
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE, help="a commit (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder)
        check_out(arguments.before, before)
        trees = {"before": before, "after": ROOT}
        sys.stdout.write("# CPU seconds of one spawned runner since its start, median\n\n")
        print_table(by_turns("one_runner.py", trees, arguments.rounds))
        sys.stdout.write("\n# CPU milliseconds of its imports by package, median\n\n")
        print_table(by_turns("by_package.py", trees, arguments.rounds))


def check_out(commit: str, folder: Path) -> None:
    """Write the sources of `commit` below `folder`."""
    archive = subprocess.run(  # noqa: S603
        ["git", "-C", str(ROOT), "archive", commit, "src", "tests", "models"],  # noqa: S607
        check=True,
        capture_output=True,
    )
    unpack = ["tar", "-x", "-C", str(folder)]
    subprocess.run(unpack, input=archive.stdout, check=True)  # noqa: S603


def by_turns(script: str, trees: Mapping[str, Path], rounds: int) -> dict[str, Figures]:
    """The median of each figure that `script` prints, for each tree."""
    # A first run of each reads the files from the disk and writes what Python compiles.
    runs: dict[str, list[Figures]] = {name: [] for name in trees}
    for turn in range(rounds + 1):
        for name, tree in trees.items():
            figures = run(script, tree)
            if turn:
                runs[name].append(figures)
    return {name: medians(each) for name, each in runs.items()}


def run(script: str, tree: Path) -> Figures:
    path = os.pathsep.join([str(tree / "src"), str(tree)])
    ran = subprocess.run(  # noqa: S603
        [sys.executable, str(HERE / script)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"},
        check=True,
        stdout=subprocess.PIPE,
        cwd=tree,
    )
    figures: Figures = json.loads(ran.stdout)
    return figures


def medians(runs: list[Figures]) -> Figures:
    names = dict.fromkeys(name for each in runs for name in each)
    return {name: statistics.median(each.get(name, 0.0) for each in runs) for name in names}


def print_table(columns: Mapping[str, Figures]) -> None:
    before, after = columns["before"], columns["after"]
    sys.stdout.write("| | before | after | after / before |\n")
    sys.stdout.write("|---|---|---|---|\n")
    for name in ordered(before, after):
        old, new = before.get(name, 0.0), after.get(name, 0.0)
        ratio = f"{new / old:.2f}" if old else ""
        sys.stdout.write(f"| {name} | {number(old)} | {number(new)} | {ratio} |\n")


def ordered(before: Figures, after: Figures) -> Iterable[str]:
    return dict.fromkeys([*before, *after])


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


if __name__ == "__main__":
    main()
