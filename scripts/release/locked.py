"""Read `locks/`: names, versions and markers of what a lock lists."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parents[2] / "locks"
# Where images run. `python_full_version` is a late patch release of each.
SERVED = tuple(
    {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "python_version": version,
        "python_full_version": f"{version}.20",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for version in ("3.11", "3.12", "3.13")
)


def requirements(name: str) -> list[Requirement]:
    """The packages of `locks/NAME.txt`, each with its exact version."""
    joined = (LOCKS / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.partition(" --hash")[0].strip() for line in joined.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def hashes(name: str) -> dict[str, list[str]]:
    """The hashes of each package of `locks/NAME.txt`."""
    joined = (LOCKS / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    return {
        canonicalize_name(line.partition("==")[0].partition("[")[0]): re.findall(
            r"--hash=(sha256:[0-9a-f]{64})", line
        )
        for line in joined.splitlines()
        if "==" in line
    }


def version(found: Requirement) -> str:
    (exact,) = found.specifier
    return exact.version


def served(name: str) -> dict[str, str]:
    """Name and version of each package that `locks/NAME.txt` installs on Linux, on some Python."""
    return {
        canonicalize_name(found.name): version(found)
        for found in requirements(name)
        if found.marker is None or any(found.marker.evaluate(dict(each)) for each in SERVED)
    }
