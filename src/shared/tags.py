"""The form of a job's tags, and the setting that names those by which usage is counted."""

import re

MAX_TAGS = 10
MAX_TAG_VALUE = 256
TAG_KEY = "[A-Za-z0-9._:/-]{1,64}"


def parse_tag_keys(text: str) -> tuple[str, ...]:
    """`project,customer`. Raises `ValueError`, which says what is accepted."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, key in enumerate(keys):
        if re.fullmatch(TAG_KEY, key) is None:
            raise ValueError(
                f"{key!r} is no key of a tag: letters, digits and . _ : / - up to 64 characters"
            )
        if key in keys[:number]:
            raise ValueError(f"{key} is there twice")
    if len(keys) > MAX_TAGS:
        raise ValueError(f"a job has {MAX_TAGS} tags at most, and these are {len(keys)} keys")
    return keys
