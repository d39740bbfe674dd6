"""What a small model can draw: the lines of its `vocabulary.txt`, and other words for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FILE = "vocabulary.txt"
SYNONYMS = "synonyms.txt"  # a word, a tab, the line that it stands for


def read_vocabulary(folder: Path) -> list[str]:
    """Its lines; none for a model that draws anything."""
    path = folder / FILE
    if not path.exists():
        return []
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_synonyms(folder: Path) -> list[str]:
    """Words that the model knows beside its vocabulary."""
    path = folder / SYNONYMS
    if not path.exists():
        return []
    return [line.split("\t", 1)[0] for line in path.read_text(encoding="utf-8").splitlines()]


def prompt_matches(vocabulary: Iterable[str], prompt: str) -> bool:
    """Whether any word of the prompt is one of the vocabulary; small words do not count."""
    known = {word for line in vocabulary for word in _words(line)}
    return bool(known & _words(prompt))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 2} - {"the", "and"}
