"""Wheel and source archive: the same sources make the same bytes, wherever and whenever."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from scripts.release import images, packages, sources
from scripts.release.__main__ import NotReproducible, packages_twice
from tests.support.deployment import VERSION

ROOT = Path(__file__).parents[3]
EPOCH = 1_700_000_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with our build configuration and one module of each package."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("pyproject.toml", "LICENSE", "README.md", "docs/licences.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for source in (ROOT / "src").glob("*/__init__.py"):
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    for name in ("migrations", "models"):
        (folder / name).mkdir()
        (folder / name / "kept.txt").write_text("kept\n")
    return folder


def hashes(paths: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_two_builds_of_the_same_sources_are_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """The second tree lies elsewhere, was written later, and by someone with another umask."""
    again = tmp_path / "elsewhere" / "again"
    shutil.copytree(small, again)
    for path in again.rglob("*"):
        os.utime(path, (EPOCH + 12_345, EPOCH + 12_345))
        path.chmod(0o700 if path.is_dir() else 0o600)
    first = packages.build(small, tmp_path / "first", EPOCH)
    second = packages.build(again, tmp_path / "second", EPOCH)
    assert hashes(first) == hashes(second)
    assert {path.name for path in first} == {
        f"dreamforge-{VERSION}-py3-none-any.whl", f"dreamforge-{VERSION}.tar.gz"
    }  # fmt: skip
    with zipfile.ZipFile(next(path for path in first if path.suffix == ".whl")) as wheel:
        inside = set(wheel.namelist())
    assert f"dreamforge-{VERSION}.dist-info/licenses/docs/licences.md" in inside
    assert "api/__init__.py" in inside


def test_a_byte_that_differs_is_no_release(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(folder: Path) -> None:
        shutil.copytree(small, folder)
        (folder / "src/api/late.py").write_text(f"BUILT = {str(folder)!r}\n")

    monkeypatch.setattr("scripts.release.__main__.export", export)
    source = tmp_path / "source"
    export(source)
    with pytest.raises(NotReproducible, match=r"two builds of dreamforge-.* differ"):
        packages_twice(source, tmp_path / "dist", tmp_path, EPOCH)


# Docker as far as a release uses it: with the containerd store it unpacks each image that is built
# into it, and BuildKit then refuses to write times.
ENGINE = """#!{python}
import json, sys
from pathlib import Path
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(" ".join(words) + "\\n")
if words[0] == "info":
    print({status!r})
if words[:2] == ["buildx", "build"]:
    output = dict(each.split("=") for each in words[words.index("--output") + 1].split(","))
    if "rewrite-timestamp" in output:
        if "dest" not in output:
            sys.exit('exporter option "rewrite-timestamp" conflicts with "unpack"')
        Path(output["dest"]).write_text("an image")
    digest = {{"containerimage.config.digest": "sha256:1"}}
    Path(words[words.index("--metadata-file") + 1]).write_text(json.dumps(digest))
"""


@pytest.mark.parametrize("store", ["io.containerd.snapshotter.v1", "overlay2"])
def test_an_image_is_built_into_the_engine_with_the_times_that_it_can_set(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, program = tmp_path / "log", tmp_path / "docker"
    status = f'[["driver-type", "{store}"]]'
    program.write_text(ENGINE.format(python=sys.executable, log=str(log), status=status))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert images.build(tmp_path, "api", VERSION, EPOCH) == "sha256:1"
    said = log.read_text().splitlines()
    loaded = [line for line in said if line.startswith("image load")]
    assert len(loaded) == images.sets_times() == store.startswith("io.containerd")


def test_a_tree_with_changes_is_no_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sources, "git", lambda *words: " M src/api/app.py" if "status" in words else ""
    )
    with pytest.raises(sources.NotClean, match=r"src/api/app\.py"):
        sources.require_clean_tree()


def test_the_sources_of_a_release_are_the_committed_files(tmp_path: Path) -> None:
    sources.export(tmp_path / "source")
    exported = {
        str(path.relative_to(tmp_path / "source"))
        for path in (tmp_path / "source").rglob("*")
        if path.is_file()
    }
    assert exported == set(sources.git("ls-tree", "-r", "--name-only", "HEAD").splitlines())


def test_the_backend_of_this_environment_is_the_locked_one() -> None:
    assert Path(sys.prefix, "bin/hatchling").exists(), "`make setup` installs locks/dev.txt"


def test_the_archive_of_sources_has_no_time_of_its_own(small: Path, tmp_path: Path) -> None:
    made = packages.build(small, tmp_path, EPOCH)
    with tarfile.open(next(path for path in made if path.suffix == ".gz")) as archive:
        assert {member.mtime for member in archive.getmembers()} == {EPOCH}
