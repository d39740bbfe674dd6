"""`dreamforge model verify|enable|disable|remove` against a real registry and a real disk."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.api_harness import BODY, Api, running_api

from cli.main import run
from cli.models.install import bundled_models
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.verify import read_model, verify_model, write_descriptor

Command = Callable[..., int]
DEMO = "dreamforge-demo@1"
KILLS = 50


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        yield running


@pytest.fixture
def model(
    stack_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path))
    return lambda *arguments: run(["model", *arguments])


def test_a_changed_byte_is_found_and_named(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("import", str(bundled_models()[0])) == 0
    assert model("verify") == 0
    weights = tmp_path / "sd" / DEMO / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    assert model("verify", "dreamforge-demo", "-o", "json") == 1
    (state,) = json.loads(capsys.readouterr().out)["models"]
    assert state["problem"] == "vae/diffusion_pytorch_model.safetensors: its content has changed"


def test_verify_of_a_model_that_is_not_here_says_so(
    model: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("verify", "nothing") == 2
    assert "no model nothing" in capsys.readouterr().err


def test_a_disabled_model_takes_no_jobs_until_it_is_enabled(model: Command, api: Api) -> None:
    row = api.install()
    assert model("disable", row.name) == 0
    refused = api.client.post("/v1/jobs", json=BODY | {"model_id": row.name})
    assert refused.json()["code"] == "model_unavailable"
    assert model("enable", f"{row.name}@{row.version}") == 0
    api.create()


def test_a_model_goes_whole_when_no_job_ever_named_it(
    model: Command, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("import", str(bundled_models()[0])) == 0
    capsys.readouterr()
    assert model("remove", DEMO, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["registry"] == "removed"
    assert not (tmp_path / "sd" / DEMO).exists()
    assert not api.sql("SELECT 1 FROM models WHERE name = 'dreamforge-demo'")


def test_a_model_that_a_job_waits_for_is_kept_without_force(
    model: Command, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    row = api.install()
    api.create()
    assert model("remove", str(row.id)) == 2
    assert "needed by 1 step(s)" in capsys.readouterr().err
    assert api.sql("SELECT enabled FROM models WHERE id = %s", row.id) == [(True,)]
    assert model("remove", str(row.id), "--force") == 0
    assert api.sql("SELECT enabled FROM models WHERE id = %s", row.id) == [(False,)]


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    """Two builds of one version replace each other until SIGKILL, 50 times."""
    builds = [_build(tmp_path / name, name) for name in ("one", "two")]
    root = tmp_path / "root"
    code = (
        "import itertools, pathlib, sys\n"
        "from cli.models.install import install\n"
        "root, *builds = map(pathlib.Path, sys.argv[1:])\n"
        "install(builds[0], root)\n"
        "print(flush=True)\n"
        "for build in itertools.cycle(builds):\n    install(build, root)\n"
    )
    moments = random.Random(7)
    place = root / "sd" / DEMO
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(root), *map(str, builds)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.08))  # the moment of the kill is the subject here
        process.kill()
        process.communicate()
        verify_model(place, read_model(place))
    assert [path.name for path in place.parent.iterdir()] == [DEMO]


def _build(folder: Path, text: str) -> Path:
    """The demo model with another README, described anew."""
    shutil.copytree(bundled_models()[0], folder)
    (folder / "README.md").write_text(text)
    old = read_model(folder)
    new = describe_folder(
        folder, DescriptorInput(name=old.name, version=old.version, source=old.source)
    )
    write_descriptor(folder, new)
    return folder
