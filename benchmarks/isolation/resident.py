"""The resident side's process: both models stay in memory, and it only draws.

Each line of its input is a list of jobs, each line of its output says that they are drawn. It ends
when its input is closed.
"""

from __future__ import annotations

import json
import sys

from benchmarks.isolation.pipelines import Pipelines
from benchmarks.isolation.workload import Job


def main() -> None:
    folders = json.loads(sys.argv[1])
    pipelines = Pipelines(folders, keep=len(folders))
    for line in sys.stdin:
        for job in json.loads(line):
            for _ in pipelines.pictures(Job(**job)):
                pass
        sys.stdout.write("drawn\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
