"""Compare several rounds of one suite by their JUnit files.

    python -m tests.support.rounds 20 reports/hostile-*.xml

It prints a line for each test whose outcome differs between rounds, a line for each test whose
slowest run took much longer than its fastest, and a summary. The exit code is 1 when a test failed
in a round or is missing from one, or when a round left no file.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as Xml
from collections import defaultdict
from pathlib import Path

# A smaller difference between the slowest and the fastest run is noise: the machine is shared.
NOTABLE_S = 5.0

# By test and round: the outcome, and the seconds.
Rounds = dict[str, dict[int, tuple[str, float]]]


def read(files: list[Path]) -> Rounds:
    """Every test of every file; rounds are numbered from 1 in the order of the files."""
    tests: Rounds = defaultdict(dict)
    for number, file in enumerate(files, 1):
        for case in Xml.parse(file).getroot().iter("testcase"):
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            tests[name][number] = (_outcome(case), float(case.get("time", 0)))
    return tests


def _outcome(case: Xml.Element) -> str:
    return next(
        (each.tag for each in case if each.tag in ("failure", "error", "skipped")), "passed"
    )


def report(tests: Rounds, rounds: int) -> tuple[list[str], bool]:
    """Lines to print, and whether every test passed, or was skipped, in every round."""
    lines, sound = [], True
    for name, runs in sorted(tests.items()):
        outcomes = {number: outcome for number, (outcome, _) in runs.items()}
        missing = [number for number in range(1, rounds + 1) if number not in outcomes]
        if len(set(outcomes.values())) > 1 or missing:
            outcome_list = ", ".join(
                f"{outcome} in {_where(outcomes, outcome)}" for outcome in _kinds(runs)
            )
            lines.append(
                f"differs  {name}: {outcome_list}" + (f", not in {missing}" if missing else "")
            )
        if missing or {"failure", "error"} & set(outcomes.values()):
            sound = False
            if len(set(outcomes.values())) == 1 and not missing:
                lines.append(f"fails    {name}: in every round")
    for name, runs in sorted(tests.items()):
        seconds = [spent for _, spent in runs.values()]
        if max(seconds) - min(seconds) >= NOTABLE_S:
            lines.append(f"slow     {name}: {min(seconds):.1f} to {max(seconds):.1f} s")
    differ = sum(line.startswith("differs") for line in lines)
    lines.append(f"{rounds} rounds, {len(tests)} tests: {differ} differed between rounds")
    return lines, sound


def _kinds(runs: dict[int, tuple[str, float]]) -> list[str]:
    return sorted({outcome for outcome, _ in runs.values()})


def _where(outcomes: dict[int, str], kind: str) -> list[int]:
    return [number for number, outcome in sorted(outcomes.items()) if outcome == kind]


def main(arguments: list[str]) -> int:
    rounds, *names = arguments
    files = sorted(map(Path, names), key=lambda file: (len(file.name), file.name))
    lines, sound = report(read(files), len(files))
    if len(files) != int(rounds):
        lines.append(f"{len(files)} of {rounds} rounds left a file")
    print("\n".join(lines))
    return 0 if sound and len(files) == int(rounds) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
