"""A checkpoint in one file from a model site: what it is completed from, and that it draws."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import families, single_files
from tests.support.civitai import MODEL, OLD_VERSION, VERSION, Site
from tests.support.headers import CHECKPOINTS, VAE, of_shapes
from tests.support.hub import Hub
from tests.support.model_downloads import (
    KEY,
    REF,
    Command,
    file_requests,
    installed,
    nothing_installed,
)

from cli.download import model_download
from cli.models.fit import refuse_misfit
from cli.models.install import bundled_models
from runner.diffusion.pipelines import load
from shared.protocol.messages import GenerateParams, PresetSpec

CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)


def test_a_checkpoint_is_proven_completed_and_installed(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("download", REF, "-o", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["layout"], report["preset"]) == ("sd", "single_file", "cpu")
    descriptor = installed(tmp_path)
    assert (descriptor.source.uri, descriptor.source.revision) == (REF, str(VERSION))
    assert descriptor.config_source is not None
    assert descriptor.config_source.uri == "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"
    paths = {file.path for file in descriptor.files}
    assert {"model.safetensors", "config/model_index.json", "config/unet/config.json"} <= paths
    assert [path for path in paths if path.endswith(".safetensors")] == ["model.safetensors"]


def test_the_second_download_asks_but_fetches_nothing(
    model: Command, site: Site, tmp_path: Path
) -> None:
    assert model("download", REF) == 0
    before = len(file_requests(site))
    assert model("download", REF) == 0
    assert len(file_requests(site)) == before


def test_another_preset_is_written_without_fetching_again(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("download", REF) == 0
    before = len(file_requests(site))
    assert model("download", REF, "--preset", "gpu-8gb") == 0
    assert len(file_requests(site)) == before
    assert installed(tmp_path).default_preset == "gpu-8gb"
    assert model("download", REF, "--preset", "gpu-9gb") == 2
    assert "there is no preset 'gpu-9gb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "version"),
    [(f"{MODEL}@{OLD_VERSION}", OLD_VERSION), (str(VERSION), VERSION)],
)
def test_a_version_is_named_after_its_model_or_alone(
    model: Command, tmp_path: Path, reference: str, version: int
) -> None:
    assert model("download", f"civitai:{reference}") == 0
    descriptor = installed(tmp_path, f"Dream-Shaper-v8@{version}")
    assert (descriptor.source.uri, descriptor.source.revision) == (REF, str(version))


def test_a_part_that_the_checkpoint_lacks_is_fetched_with_its_weights(
    model: Command, site: Site, tmp_path: Path
) -> None:
    site.content = of_shapes({k: v for k, v in CHECKPOINTS["sd1"].items() if k not in VAE})
    assert model("download", REF) == 0
    paths = {file.path for file in installed(tmp_path).files}
    assert "config/vae/diffusion_pytorch_model.safetensors" in paths
    assert "config/unet/diffusion_pytorch_model.safetensors" not in paths


def test_a_base_that_cannot_be_had_is_named_and_the_checkpoint_is_kept_for_next_time(
    model: Command,
    site: Site,
    base: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base.repositories = ()
    assert model("download", REF) == 2
    assert "or say where one is: --config FOLDER" in capsys.readouterr().err
    assert nothing_installed(tmp_path)
    before = len(file_requests(site))
    assert model("download", REF, "--config", str(bundled_models()[0])) == 0
    assert len(file_requests(site)) == before
    assert installed(tmp_path).config_source is not None


def test_a_configuration_that_is_refused_costs_no_weights(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(bundled_models()[0], wrong)
    (wrong / "vae" / "config.json").unlink()
    (wrong / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert model("download", REF, "--config", str(wrong)) == 2
    assert "config/vae/: missing" in capsys.readouterr().err
    before = len(file_requests(site))
    assert model("download", REF) == 0
    assert len(file_requests(site)) == before
    # Nor does one that is asked for later: what is installed stays as it is.
    assert model("download", REF, "--config", str(tmp_path / "nothing")) == 2
    assert "no such folder, and no reference" in capsys.readouterr().err
    assert model("download", REF, "--config", str(bundled_models()[0] / "unet")) == 2
    assert "has no model_index.json" in capsys.readouterr().err
    assert len(file_requests(site)) == before
    installed(tmp_path)


def test_ctrl_c_ends_at_once_and_the_next_download_goes_on(
    model: Command, site: Site, tmp_path: Path
) -> None:
    site.stall_s = 60
    # In the background of a shell the signal is ignored, and children inherit that.
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cli.main import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, "model", "download", REF],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert site.stalled.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert "stopped; the same command goes on where this one was" in process.stderr.read()
    site.stall_s = 0
    assert model("download", REF) == 0
    installed(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            of_shapes({"x.lora_down.weight": (1,)}),
            "a tensor that is not known here (x.lora_down.weight)",
        ),
        (b"PK\3\4 a pickle in a zip", "not a sound safetensors file"),
        (of_shapes(CHECKPOINTS["sdxl"])[:-1], "not a sound safetensors file"),
    ],
)
def test_what_is_proven_and_no_model_is_refused_and_not_kept(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    says: str,
) -> None:
    site.content = content
    assert model("download", REF) == 2
    assert says in capsys.readouterr().err
    assert nothing_installed(tmp_path)
    assert not list((tmp_path / ".staging").iterdir())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_downloaded_checkpoint_draws(
    model: Command,
    site: Site,
    base: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way with real weights: site, hub, registry, and the runner's own loader.

    The first configuration has other sizes than the file: it is refused, and the file is kept.
    """
    monkeypatch.setattr(model_download, "refuse_misfit", refuse_misfit)
    folder, single = tmp_path / "folder", tmp_path / "single"
    families.build("sd", folder)
    single_files.convert("sd", folder, single)
    site.content = (single / "model.safetensors").read_bytes()
    base.files = Hub.of(folder).files
    sound = base.files["text_encoder/config.json"]
    base.files["text_encoder/config.json"] = sound.replace(
        b'"max_position_embeddings": 77', b'"max_position_embeddings": 248'
    )
    assert model("download", REF) == 2
    assert "should be [248, " in capsys.readouterr().err
    assert nothing_installed(tmp_path)
    base.files["text_encoder/config.json"] = sound
    assert model("download", REF) == 0
    assert installed(tmp_path).layout == "single_file"
    pipeline = load("sd", tmp_path / "sd" / KEY, CPU, None, layout="single_file")
    request = GenerateParams(prompt="a cat", width=64, height=48, steps=1, guidance=3.0)
    image, _ = pipeline.picture(request, 1, lambda done, total: None)
    assert image.size == (64, 48)
