"""`python -m runner.fit_check FOLDER`: does a model fit its configuration?

For `dreamforge model import`, which waits for one line of JSON: {"misfits": [...]}, or
{"unchecked": why}. The libraries are imported once the process is contained.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

from runner.process.import_check import contain


def main(folder: Path) -> int:
    """Print the answer; return the exit code."""
    contain(folder)
    fit = import_module("runner.diffusion.fit")
    try:
        answer = {"misfits": fit.misfits(folder)}
    except fit.Unchecked as error:
        answer = {"unchecked": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
