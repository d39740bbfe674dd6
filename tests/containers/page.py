"""The commands of `docs/deployment.md`, as they stand there."""

from __future__ import annotations

import re

from tests.support.deployment import ROOT

PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks of a language below a heading, up to the next one of any level."""
    found: list[str] = []
    below, kept = False, None
    for line in PAGE.splitlines(keepends=True):
        if kept is not None:  # in a block, where `# ` begins a comment
            if line.startswith("```"):
                found += ["".join(kept[1:])] if below and kept[0] == language else []
                kept = None
            else:
                kept.append(line)
        elif line.startswith("```"):
            kept = [line.removeprefix("```").strip()]
        elif re.match(r"#+ ", line):
            below = line.lstrip("#").strip() == heading
    return found
