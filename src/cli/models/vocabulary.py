"""The words that a small model can draw: its `vocabulary.txt`, and synonyms."""

import re
from collections.abc import Iterable
from pathlib import Path

FILE = "vocabulary.txt"
SYNONYMS = "synonyms.txt"  # a word, a tab, the line that it stands for


def read_vocabulary(folder: Path) -> list[str]:
    """What the model can draw; empty for a model that draws anything."""
    return [line.strip() for line in _lines(folder / FILE) if line.strip()]


def read_synonyms(folder: Path) -> list[str]:
    """Words that the model knows besides its vocabulary."""
    return [line.split("\t", 1)[0] for line in _lines(folder / SYNONYMS)]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def prompt_matches(vocabulary: Iterable[str], prompt: str) -> bool:
    """Whether any word of the prompt is in the vocabulary; words of two letters do not count."""
    known = {word for line in vocabulary for word in _words(line)}
    return bool(known & _words(prompt))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 2} - {"the", "and"}
