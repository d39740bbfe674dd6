"""Variables of the environment, and of files that stand for it, before they are settings."""

import errno
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ENV_FILE = Path(".env")  # of the folder in which a process starts
ENCODING = "utf-8-sig"  # some editors put a mark in front, which would be part of the first name


def read_env_file() -> dict[str, str | None]:
    """What `.env` says; empty without one. Raises `OSError`, also for bytes that are no UTF-8."""
    if not ENV_FILE.is_file():
        return {}
    from dotenv import dotenv_values  # not for `--help`

    return dotenv_values(stream=StringIO(read_setting_file(ENV_FILE)))


def read_setting_file(path: Path) -> str:
    """A file that holds settings. Raises `OSError`, also for bytes that are no UTF-8."""
    try:
        return path.read_text(encoding=ENCODING)
    except UnicodeDecodeError:  # its text would show what stands in the file
        raise OSError(errno.EILSEQ, "is not text in UTF-8", str(path)) from None


def without_blanks(values: Mapping[str, T]) -> dict[str, T]:
    """Those that say something: text of white space alone is as if its line were not there.

    Compose writes `NAME: ${NAME:-}` for a variable that is not set, and an operator empties a line
    in place of deleting it. Neither means a model called "", or a port that is no number.
    """
    return {name: value for name, value in values.items() if not _is_blank(value)}


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()
