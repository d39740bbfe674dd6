"""The commands of `docs/deployment.md`, as they stand there."""

from __future__ import annotations

import re

from tests.support.deployment import ROOT

PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks of a language below a heading, up to the next one of any level."""
    (section,) = re.findall(
        rf"^#+ {re.escape(heading)}$\n(.*?)(?=^#+ |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL
    )
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
