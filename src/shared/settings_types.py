"""Types of settings that many have: numbers and names with bounds that what they go to has.

PostgreSQL takes no time of a million years and no number above its integers, and the kernel no
path with NUL. A value beyond would be accepted at start and fail at each request.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

CENTURY_S = 100 * 365.25 * 24 * 3600
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+(\.\d+){3}", re.ASCII)


def check_bucket(name: str) -> str:
    """A bucket's name as S3 allows it: it is a part of addresses."""
    if not _BUCKET.fullmatch(name) or ".." in name or _ADDRESS.fullmatch(name):
        raise ValueError("must have 3 to 63 lower case letters, digits, dots and hyphens")
    return name


def check_folder(path: Path) -> Path:
    """A path that the kernel can take."""
    if "\0" in str(path):
        raise ValueError("must not have a NUL character")
    return path


def check_printable(text: str) -> str:
    """A name without controls, which no table holds."""
    if not text.isprintable():
        raise ValueError("must have no control characters")
    return text


def check_store_key(key: SecretStr) -> SecretStr:
    """A key that a header can carry, with which each request is signed."""
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("must have ASCII characters alone, and no line break")
    return key


Seconds = Annotated[float, Field(le=CENTURY_S, allow_inf_nan=False)]
Count = Annotated[int, Field(le=(1 << 31) - 1)]  # an integer of PostgreSQL
Bytes = Annotated[int, Field(le=(1 << 63) - 1)]
Folder = Annotated[Path, AfterValidator(check_folder)]
Bucket = Annotated[str, AfterValidator(check_bucket)]
Region = Annotated[str, Field(pattern=r"^[a-zA-Z0-9-]{1,64}$")]
StoreKey = Annotated[SecretStr, AfterValidator(check_store_key)]
Name = Annotated[str, AfterValidator(check_printable)]
