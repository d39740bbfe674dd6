"""Write `docs/licences.md`: what ships, and under which licence.

The licences are those that the packages' own metadata names, so every package of the locks has to be
installed where this runs (`make licences`, in the environment of `make setup`).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path

from scripts.release.locked import served

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/licences.md"

# Packages whose metadata says less than their files do. Read from the named file of the package.
READ_FROM_FILES: dict[str, str] = {}

BEGINNING = """\
# Licences

Made by `make licences` from `locks/` and the packages' metadata; `tests/unit/project/test_licences.py`
compares. Dream Forge itself, and the model that ships with it, are under Apache-2.0 (`LICENSE`).

| what ships | what is in it |
|---|---|
| wheel, source archive | our code and the demo model; nothing of the packages below |
| image `dreamforge-api` | the packages marked *api*, on `python:*-slim`: CPython (PSF-2.0) and Debian's packages, whose licences are in `/usr/share/doc/*/copyright` of the image |
| image `dreamforge-worker` | the packages marked *worker*, on `pytorch/pytorch`: torch and torchvision (BSD-3-Clause), Ubuntu's packages, and CUDA and cuDNN, whose licences are NVIDIA's own |
| `pip install dreamforge` | nothing ships: pip fetches the packages, those marked *full* too, from the index |

Many wheels have compiled libraries in them. Their licences are in the package's `dist-info` folder, in an
environment or in an image.

## LGPL and other conditions on copies

"""

LGPL = """\
These are used as they come, by `import`, as packages of their own. Who passes an image on passes them on:
the image must go with their licence, which is in its `dist-info` folder, and with their source, which the
index has under the same name and version. A user may put another version in their place (`pip install`).
They put no condition on our code or on yours.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One package: where it ships, and its licence by its own metadata."""

    name: str
    version: str
    licence: str
    ships_in: str


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")


def page() -> str:
    found = rows()
    conditions = [row for row in found if re.search(r"GPL|Mozilla|MPL", row.licence)]
    listed = "".join(
        f"- {row.name} {row.version}: {row.licence} ({row.ships_in})\n" for row in conditions
    )
    table = "".join(
        f"| {row.name} | {row.version} | {row.licence} | {row.ships_in} |\n" for row in found
    )
    head = "| package | version | licence | in |\n|---|---|---|---|\n"
    return f"{BEGINNING}{listed}\n{LGPL}\n## All packages\n\n{head}{table}"


def rows() -> list[Row]:
    versions = served("full") | served("worker") | served("api")
    names = {group: set(served(group)) for group in ("api", "worker", "full")}
    return [
        Row(
            name=name,
            version=version,
            licence=licence(name),
            ships_in=", ".join(group for group, within in names.items() if name in within),
        )
        for name, version in sorted(versions.items())
    ]


def licence(name: str) -> str:
    """What the metadata of an installed package names: an SPDX expression where it has one."""
    if name in READ_FROM_FILES:
        return READ_FROM_FILES[name]
    found: PackageMetadata = metadata(name)
    if expression := found.get("License-Expression"):
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2]
        for line in found.get_all("Classifier") or ()
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    plain = (found.get("License") or "").strip()
    if plain and "\n" not in plain and len(plain) <= 60:
        return plain
    if classified:
        return ", ".join(classified)
    raise LookupError(f"{name} names no licence: read its files, and add it to READ_FROM_FILES")


if __name__ == "__main__":
    main()
