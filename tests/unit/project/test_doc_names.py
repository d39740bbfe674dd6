"""Names in the documentation exist: files, modules, what is in them, rooms, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("api", "supervisor", "runner", "shared", "cli", "dreamforge_client")
# The changelog names what there was.
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/**/*.md",
        "src/*/README.md",
        "benchmarks/**/*.md",
        "tests/**/*.md",
    )
    for page in ROOT.glob(pattern)
)
FILES = {
    path.name
    for folder in ("src", "tests", "migrations", "docs", "deploy")
    for path in (ROOT / folder).rglob("*.*")
}
SETTINGS = set(re.findall(r"\bDF_[A-Z0-9_]+", (ROOT / ".env.example").read_text(encoding="utf-8")))
# Decision 0001 says where the packages would move to.
PLANNED = {"src/dreamforge/"}
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"[\w.-]+(?:/[\w.@-]+)+/?")
_MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
# A way in, as a package's README has it: `executor.StepExecutor`; not a command.
_WAY = re.compile(r"(?<![\w./])(?<!-m )[a-z_]+\.\w+(?![\w./])")
_TOP = {*PACKAGES, "src", "tests", "docs", "deploy", "migrations", "benchmarks", "training"}


def missing(text: str) -> list[str]:
    """Every name in backticks that looks like a file or a module of ours and is none."""
    names = _CODE.findall(_FENCE.sub("", text))
    return [name for name in names if not (_exists(name) or name in PLANNED or "NNNN" in name)]


def _exists(name: str) -> bool:
    if _PATH.fullmatch(name) and name.partition("/")[0] in _TOP:
        return (ROOT / name).exists() or (ROOT / "src" / name).exists()
    if re.fullmatch(r"\w+\.py", name):
        return name in FILES
    return not _MODULE.fullmatch(name) or _defined(name.split("."))


def _defined(parts: list[str]) -> bool:
    """Whether it is a module, or a name that the text of the last module defines."""
    place, left = ROOT / "src", list(parts)
    while left and (place / left[0]).is_dir():
        place /= left.pop(0)
    if left and (module := place / f"{left[0]}.py").is_file():
        text = module.read_text(encoding="utf-8")
        return all(
            re.search(rf"^\s*(?:class |(?:async )?def )?{n}\b", text, re.M) for n in left[1:]
        )
    return not left


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_and_modules_that_exist(page: str) -> None:
    assert missing((ROOT / page).read_text(encoding="utf-8")) == []


def test_a_name_of_nothing_is_found() -> None:
    good = "`src/shared/settings.py` `shared/db` `settings.py` `shared.settings.Settings` `GET /x`"
    bad = ["src/nothing.py", "shared/nothing", "nothing.py", "shared.nothing", "shared.errors.Nope"]
    assert missing(good + "".join(f" `{name}`" for name in bad)) == bad


@pytest.mark.parametrize("page", [page for page in PAGES if "/adr/" not in page])
def test_a_page_names_settings_that_exist(page: str) -> None:
    """Decisions are left out: they may name a setting that has gone since."""
    named = re.findall(r"`(DF_[A-Z0-9_]+)\b(?!\*)", (ROOT / page).read_text(encoding="utf-8"))
    assert sorted({name for name in named if not name.endswith("_")} - SETTINGS) == []


def test_the_map_shows_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    plan = page.partition("\n## The plan\n")[2].split("```")[1]
    shown: dict[str, set[str]] = {}
    for line in plan.splitlines():
        if package := re.match(r"src/(\w+)/", line):
            rooms = shown.setdefault(package[1], set())
        elif line.startswith("  "):
            rooms.add(line.split("/")[0].strip())
    assert shown == {
        package: {init.parent.name for init in (ROOT / "src" / package).glob("*/__init__.py")}
        for package in PACKAGES
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_rooms_and_modules_with_ways_in_that_exist(package: str) -> None:
    place = ROOT / "src" / package
    listed, ways = set(), set()
    for line in (place / "README.md").read_text(encoding="utf-8").split("```")[1].splitlines():
        if line.strip():
            names, *_, last = re.split(r"\s{2,}", line)
            listed |= set(names.split(", "))
            room = f"{names[:-1]}." if names.endswith("/") else ""
            ways |= {f"{package}.{room}{way}" for way in _WAY.findall(last)}
    modules = {path.stem for path in place.glob("*.py") if not path.stem.startswith("__")}
    rooms = {f"{init.parent.name}/" for init in place.glob("*/__init__.py")}
    assert listed == modules | rooms
    assert sorted(way for way in ways if not _defined(way.split("."))) == []
