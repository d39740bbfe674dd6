"""Clocks of hosts: libfaketime tells a process another time than the machine has.

Only the time of day: CLOCK_MONOTONIC and CLOCK_BOOTTIME go on as they are, on a host whose time is
wrong too. The clock is a file, so it can be set while the process runs. A worker's children lose
the library with their environment, so runners have the machine's time.
"""

from __future__ import annotations

import runpy
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

# The one for programs with threads. Debian, Fedora.
LIBRARIES = ("lib/*/faketime/libfaketimeMT.so.1", "lib64/faketime/libfaketimeMT.so.1")
# libfaketime reads the file again after so long.
READ_AGAIN_S = 1


def library() -> Path | None:
    """libfaketime, where it is installed."""
    return next((found for name in LIBRARIES for found in Path("/usr").glob(name)), None)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day of the processes that have `environment`."""

    file: Path

    def set(self, ahead_s: int) -> None:
        """Let it be so many seconds ahead of the machine's, or behind, when this returns."""
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{ahead_s:+d}\n")
        beside.replace(self.file)
        time.sleep(2 * READ_AGAIN_S)

    @property
    def environment(self) -> dict[str, str]:
        found = library()
        assert found is not None
        return {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": str(READ_AGAIN_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # files were written at the machine's time
        }


def main() -> None:
    """`python -m tests.hosts.clocks MODULE`: run a module where libfaketime is.

    libfaketime 0.9.10 turns the moment until which `time.sleep` waits into none (EINVAL). Spans it
    leaves alone.
    """
    time.sleep = _sleep
    module = sys.argv.pop(1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _sleep(seconds: float | SupportsIndex, /) -> None:
    select.select((), (), (), float(seconds))


if __name__ == "__main__":
    main()
