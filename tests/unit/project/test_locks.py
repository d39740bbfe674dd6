"""`locks/` has the versions of constraints.txt, all that is needed, and hashes of all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts.release.lock import BUILT_FOR_A_DEVICE, LOCK_FILES
from scripts.release.locked import hashes, requirements, version
from tests.support.deployment import PROJECT
from tests.support.installed import installed_with, listed

ROOT = Path(__file__).parents[3]
NAMES = [lock.name for lock in LOCK_FILES]
PINNED = {
    canonicalize_name(name): pinned
    for name, pinned in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE
    )
}


def test_every_lock_is_one_that_make_lock_writes() -> None:
    assert sorted(path.stem for path in (ROOT / "locks").glob("*.txt")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_locked_version_is_the_pinned_one(name: str) -> None:
    """`make lock` writes them again after a change of constraints.txt or pyproject.toml."""
    different = {
        found.name: version(found)
        for found in requirements(name)
        if PINNED.get(canonicalize_name(found.name), version(found)) != version(found)
    }
    assert different == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_may_be_installed_has_a_hash(name: str) -> None:
    listed_names = {canonicalize_name(found.name) for found in requirements(name)}
    found = hashes(name)
    assert found.keys() == listed_names
    assert [each for each, known in found.items() if not known] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "torch"])
def test_torch_and_what_it_brings_for_a_device_is_in_no_lock_but_its_own(name: str) -> None:
    names = {canonicalize_name(found.name) for found in requirements(name)}
    assert not names & {*BUILT_FOR_A_DEVICE, "triton"}
    assert not [each for each in names if re.match(r"nvidia-(?!ml-py)|cuda-", each)]


@pytest.mark.parametrize("name", ["api", "worker", "full", "dev"])
def test_a_lock_has_all_that_its_packages_need(name: str) -> None:
    """By the metadata of what is installed here, where the lock's markers are asked as well."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "full": [*project["dependencies"], *extras["gan"]],
        "dev": [*project["dependencies"], *extras["gan"], *_plain(extras["dev"])],
    }
    needed = installed_with(wanted.get(name) or listed(name))
    here = {
        canonicalize_name(found.name)
        for found in requirements(name)
        if found.marker is None or found.marker.evaluate()
    }
    missing = {each for each in needed - here if not _of_a_build_of_torch(each)}
    if name == "worker":  # torch and what it needs is the base image's
        missing -= installed_with(["torch"])
    assert missing == set(), "run `make lock`"


def _plain(lines: list[str]) -> list[str]:
    """The `dev` extra with our own extras replaced by what they name."""
    extras = PROJECT["project"]["optional-dependencies"]
    found = [Requirement(line) for line in lines]
    own = [each for line in found if line.name == "dreamforge" for each in line.extras]
    return [str(line) for line in found if line.name != "dreamforge"] + [
        line for extra in own for line in extras[extra]
    ]


def _of_a_build_of_torch(name: str) -> bool:
    return name in {*BUILT_FOR_A_DEVICE, "triton"} or bool(
        re.match(r"nvidia-(?!ml-py)|cuda-", name)
    )


def test_the_build_backend_is_locked() -> None:
    needed = {Requirement(line).name for line in PROJECT["build-system"]["requires"]}
    assert needed <= {canonicalize_name(found.name) for found in requirements("build")}
