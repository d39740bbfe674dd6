"""`python -m runner.fit_check FOLDER`: does a model fit its configuration?

For `dreamforge model import`, which waits for one line of JSON: {"misfits": [...]}, or
{"unchecked": why}. It has what a runner has of bounds and of the sandbox, and bounds of its own: a
configuration is a stranger's, and a model of a billion layers is built for hours.
"""

import json
import os
import resource
import sys
from importlib import import_module
from pathlib import Path

from shared.linux import child, landlock, seccomp
from shared.linux.sandbox import Sandbox

# Imports take 10 CPU seconds, the largest model in use 5.
CPU_S = 120
# Of address space: CUDA's libraries alone map 6 GiB. A model without storage takes some MiB.
ADDRESS_SPACE_BYTES = 32 << 30


def main(folder: str) -> int:
    """Print the answer; return the exit code."""
    contain(folder)
    fit = import_module("runner.diffusion.fit")
    try:
        answer = {"misfits": fit.misfits(Path(folder))}
    except fit.Unchecked as error:
        answer = {"unchecked": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def contain(folder: str) -> None:
    """Give up all but reading libraries and this folder, as far as the kernel can refuse it."""
    child.scrub(os.environ)
    child.refuse_privileges()
    child.bound_resources()
    for limit, most in (
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, ADDRESS_SPACE_BYTES),
    ):
        _, hard = resource.getrlimit(limit)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))
    sandbox = Sandbox(landlock_abi=landlock.abi(), seccomp=seccomp.available(), models=folder)
    sandbox.enter()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
