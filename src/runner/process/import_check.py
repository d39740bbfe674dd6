"""How a process is contained that looks at a stranger's model for `dreamforge model import`.

It has what a runner has of bounds and of the sandbox, and bounds of its own: a model of a billion
layers is built for hours.
"""

import os
import resource
from pathlib import Path

from shared.linux import child, landlock, seccomp
from shared.linux.sandbox import Sandbox

# Imports take 10 CPU seconds, the largest model in use 5.
CPU_S = 120
# Of address space: CUDA's libraries alone map 6 GiB. A model without storage takes some MiB.
ADDRESS_SPACE_BYTES = 32 << 30


def contain(folder: Path) -> None:
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
    sandbox = Sandbox(landlock_abi=landlock.abi(), seccomp=seccomp.available(), models=str(folder))
    sandbox.enter()
