"""The list of concepts (`concepts.txt`) and the paraphrases held out for evaluation."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_LATER = "~"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One picture to learn: where it comes from and the words that belong to it alone."""

    label: str
    name: str
    synonyms: tuple[str, ...]
    only_in_large: bool


def normalise(text: str) -> str:
    """Lower case, straight quotes, no accents, single spaces: the form captions are compared in."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    ascii_only = plain.encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", ascii_only).strip().lower()


def _parse(line: str) -> Concept:
    only_in_large = line.startswith(_LATER)
    label, _, words = line.removeprefix(_LATER).partition("=")
    names = [normalise(word) for word in words.split(";") if word.strip()]
    name, *synonyms = names or [normalise(label)]
    return Concept(
        label=label.strip(), name=name, synonyms=tuple(synonyms), only_in_large=only_in_large
    )


def read_concepts(path: Path, *, large: bool) -> list[Concept]:
    """The concepts of `path` in file order; those marked `~` only where `large`.

    Raises ValueError when a name or a synonym stands for two pictures.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    concepts = [_parse(line) for line in lines if line and not line.startswith("#")]
    selected = [concept for concept in concepts if large or not concept.only_in_large]
    owner: dict[str, str] = {}
    for concept in selected:
        for word in (concept.name, *concept.synonyms):
            if owner.setdefault(word, concept.label) != concept.label:
                raise ValueError(f"{word!r} stands for {owner[word]!r} and {concept.label!r}")
    return selected


def read_paraphrases(path: Path) -> list[tuple[str, str]]:
    """Pairs (paraphrase, concept name), tab separated in `path`; never used as captions."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return [(normalise(text), normalise(name)) for text, name in rows]
