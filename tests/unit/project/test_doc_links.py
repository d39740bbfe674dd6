"""Every relative link in README and docs leads somewhere, and every anchor to a heading."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "models/**/*.md")
    for page in ROOT.glob(pattern)
)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=[\"']([^\"']+)[\"']")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """As GitHub makes it: words in lower case, joined by hyphens, without punctuation."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken(page: Path) -> list[str]:
    found = []
    for link in (plain or tag for plain, tag in _LINK.findall(prose(page))):
        path, _, fragment = link.partition("#")
        if ":" in path:  # another site
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(link)
        elif fragment and fragment not in map(anchor, _HEADING.findall(prose(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    assert broken(ROOT / page) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c!\n[x](nothing.md) [y](#a-b-c) [z](#a-b) [w](page.md#a)\n")
    assert broken(page) == ["nothing.md", "#a-b", "page.md#a"]
