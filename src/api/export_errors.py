"""`python -m api.export_errors`: what docs/errors.md says of each code, for the page.

The page explains a failure with the words of the documentation, which is not installed with it.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs/errors.md"
TARGET = ROOT / "src/api/page/static/errors.json"
_SECTION = re.compile(r"^### (?P<code>[a-z_]+)\n(?P<text>.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_ADVICE = re.compile(r"\*Retried:\* (?P<retried>.*?)\*What to do:\* (?P<todo>.*)", re.DOTALL)


def explanations(text: str) -> dict[str, dict[str, Any]]:
    """By code: `means` (the section's first paragraph), `retried` and `todo`."""
    return {found["code"]: _explanation(found["text"]) for found in _SECTION.finditer(text)}


def _explanation(section: str) -> dict[str, Any]:
    means = section.strip().partition("\n\n")[0]
    advice = _ADVICE.search(section)
    assert advice is not None, section
    return {
        "means": _line(means),
        "retried": _line(advice["retried"]),
        "todo": _line(advice["todo"].partition("\n\n")[0]),
    }


def _line(text: str) -> str:
    """One line without emphasis; backticks stay, for the page to set in another face."""
    return " ".join(text.replace("**", "").split())


def render() -> str:
    found = explanations(SOURCE.read_text(encoding="utf-8"))
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
