"""`dreamforge preset measure` with the real runner on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[3] / "models" / "sd" / "dreamforge-demo@1"


def measure(folder: Path, *sizes: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "cli", "preset", "measure", str(folder), "--preset", "cpu"]
    argv += [part for size in sizes for part in ("--size", size)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*argv, "--output", "json"], capture_output=True, text=True, env=env, check=False
    )


def test_peaks_of_two_sizes_become_the_figures_of_a_preset() -> None:
    process = measure(DEMO, "64x64", "256x256")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    small, large = (peak["peak_bytes"] for peak in report["peaks"])
    assert report["kind"] == "sd"
    # Python, torch and the weights; then a decoder that has many channels for each pixel.
    assert 200 << 20 < small < large < 2 << 30
    assert report["bytes_per_pixel"] * (256 * 256 - 64 * 64) >= (large - small) // 2


BUILD = """
import sys
from pathlib import Path
from tests.support import upscalers
upscalers.esrgan(Path(sys.argv[1], "esrgan"), scale=4)
upscalers.diffusion(Path(sys.argv[1], "sd_upscale"), "sd_upscale")
"""


@pytest.fixture(scope="module")
def upscalers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("upscalers")
    # In a process of its own: this one stays free of torch, as a worker is.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run([sys.executable, "-c", BUILD, str(root)], check=True, env=env)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["esrgan", "sd_upscale"])
def test_an_upscaler_is_measured_by_what_it_makes(upscalers: Path, kind: str) -> None:
    process = measure(upscalers / kind, "32x32", "128x64")
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    assert report["kind"] == kind
    assert [peak["pixels"] for peak in report["peaks"]] == [16 * 32 * 32, 16 * 128 * 64]
    assert all(peak["peak_bytes"] > 200 << 20 for peak in report["peaks"])


@pytest.mark.parametrize("program", ["api", "supervisor"])
def test_a_service_does_not_start_with_a_wrong_preset(tmp_path: Path, program: str) -> None:
    (tmp_path / "mine.toml").write_text('name = "mine"\nversion = 1\ndtpye = "float16"\n')
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DF_PRESETS_DIR": str(tmp_path),
        "DF_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "DF_REDIS_URL": "redis://127.0.0.1:1/0",
        "DF_S3_ENDPOINT": "http://127.0.0.1:1",
        "DF_S3_ACCESS_KEY": "none",
        "DF_S3_SECRET_KEY": "none",
    }
    process = subprocess.run(
        [sys.executable, "-m", program], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "DF_PRESETS_DIR: mine.toml: dtpye: no such field; there are name, version" in line


def test_a_model_that_cannot_be_run_is_said_in_the_runners_words(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(DEMO, folder)
    (folder / "vocabulary.txt").unlink()
    process = measure(folder)
    assert process.returncode == 2
    assert "vocabulary.txt: missing" in process.stderr
