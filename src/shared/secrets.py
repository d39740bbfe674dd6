"""The folder of secrets that Docker and Kubernetes mount: one file per setting, named like it.

`Settings` reads it by itself (pydantic-settings). The command line, some of whose commands need one
setting and not all of them, reads it here: the same files, the same way.
"""

from pathlib import Path

from shared.environment import read_setting_file

SECRETS_DIR = Path("/run/secrets")


def secrets_in(folder: Path) -> dict[str, str]:
    """`DF_*` variables by name; empty where there is no such folder. Raises `OSError`."""
    if not folder.is_dir():
        return {}
    return {
        path.name.upper(): read_setting_file(path).strip()
        for path in sorted(folder.iterdir())
        if path.name.upper().startswith("DF_") and path.is_file()
    }
