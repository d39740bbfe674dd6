"""`dreamforge preset list`, `show`, `fit` and `measure`, without an API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.errors import USAGE
from cli.main import run
from cli.presets import choice
from cli.presets.catalogue import check_preset, workload_of
from cli.presets.measure import parse_size
from cli.presets.profiler import Peak, fit_need
from shared.models.descriptor import PartSize
from shared.models.verify import read_model
from shared.presets import presets

SHIPPED = Path(__file__).parents[3] / "src" / "shared" / "presets_data"
DEMO = Path(__file__).parents[3] / "models" / "sd" / "dreamforge-demo@1"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DF_PRESETS_DIR", raising=False)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["preset", *arguments, "--output", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_and_show_print_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert [one["name"] for one in answer(capsys, "list")] == list(presets())
    shown = answer(capsys, "show", "gpu-8gb")
    assert shown == presets()["gpu-8gb"].model_dump(mode="json")
    assert run(["preset", "show", "gpu-8gb"]) == 0
    assert "group" in capsys.readouterr().out


def test_fit_says_for_a_folder_what_each_preset_would_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {row["preset"]: row for row in answer(capsys, "fit", str(DEMO))}
    assert all(row["fits"] for row in rows.values())
    assert rows["cpu"]["need_bytes"] == presets()["cpu"].budget_for("sd", 64 * 64).vram_bytes
    wide = {
        row["preset"]: row["problem"]
        for row in answer(capsys, "fit", str(DEMO), "--width", "2048", "--height", "1024")
    }
    assert "1048576 pixels" in wide["gpu-8gb"]
    assert wide["gpu-16gb"] is None


def described(folder: Path, **facts: Any) -> str:
    """A folder with nothing but what a model says about itself."""
    descriptor = json.loads((DEMO / "dreamforge.json").read_text()) | facts
    folder.mkdir()
    (folder / "dreamforge.json").write_text(json.dumps(descriptor))
    return str(folder)


def test_fit_counts_what_an_upscaler_makes_of_what_it_is_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    drawing = {
        "kind": "sd_upscale",
        "scale": 4,
        "capabilities": ["upscale"],
        "defaults": {"width": 128, "height": 128, "steps": 50, "guidance": 9},
        "limits": {side: {"min": 32, "max": 512} for side in ("width", "height")},
    }
    folder = described(tmp_path / "x4", **drawing)
    rows = {row["preset"]: row for row in answer(capsys, "fit", folder)}
    assert (
        rows["gpu-8gb"]["need_bytes"]
        == presets()["gpu-8gb"].budget_for("sd_upscale", 512 * 512).vram_bytes
    )
    wide = answer(capsys, "fit", folder, "--width", "512", "--height", "512")
    problems = {row["preset"]: row["problem"] for row in wide}
    assert "3145728 pixels" in problems["gpu-8gb"] and problems["gpu-24gb"] is None
    assert run(["preset", "fit", folder]) == 0
    assert "128x128 to 512x512" in capsys.readouterr().out


def test_8_bits_are_not_chosen_for_those_who_did_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 GB, 3.5 Large would have a larger preset in 8 bits than in full precision."""
    transformer = PartSize(
        numbers=8 * 10**9, largest=10**8, block=2 * 10**8, outside=10**8, precise=3 * 10**9
    )
    large = read_model(DEMO).model_copy(
        update={"kind": "sd3", "parts": {"transformer": transformer}}
    )
    monkeypatch.setattr(choice, "_largest_gpu_bytes", lambda url: 16 * 10**9)
    assert check_preset(presets()["gpu-16gb-fp8"], workload_of(large)).problem == ""
    assert check_preset(presets()["gpu-16gb"], workload_of(large)).problem == "too little memory"
    assert choice.preset_chooser("", None)(large) == "gpu-8gb"


def test_fit_counts_the_weights_the_steps_and_the_operator_s_factor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = described(tmp_path / "large", parts={"unet": {"numbers": 9 * 10**9, "largest": 1}})
    problems = {row["preset"]: row["problem"] for row in answer(capsys, "fit", large)}
    assert problems["gpu-16gb"] == "too little memory" and problems["gpu-24gb"] is None
    monkeypatch.setenv("DF_VRAM_FACTOR", "2")
    doubled = {row["preset"]: row for row in answer(capsys, "fit", large)}
    assert doubled["gpu-24gb"]["problem"] == "too little memory"
    monkeypatch.setenv("DF_VRAM_FACTOR", "much")
    assert run(["preset", "fit", large]) == USAGE
    assert "DF_VRAM_FACTOR: 'much' is not a number" in capsys.readouterr().err
    monkeypatch.delenv("DF_VRAM_FACTOR")
    few = (SHIPPED / "cpu.toml").read_text().replace('"cpu"', '"few"', 1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "few.toml").write_text(few.replace("max_steps = 200", "max_steps = 2"))
    monkeypatch.setenv("DF_PRESETS_DIR", str(mine))
    steps = {row["preset"]: row["problem"] for row in answer(capsys, "fit", str(DEMO))}
    assert steps["few"] == "more than its 2 steps"


def test_an_unknown_preset_and_a_wrong_file_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["preset", "show", "gpu-1gb"]) == USAGE
    assert "there are cpu, gpu-8gb" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text("name = 1")
    monkeypatch.setenv("DF_PRESETS_DIR", str(tmp_path))
    assert run(["preset", "list"]) == USAGE
    assert "DF_PRESETS_DIR: mine.toml: name:" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["64", "64x", "0x0", "65x64", "8192x64", "64x64x64"])
def test_a_size_that_no_request_could_have_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="WIDTHxHEIGHT"):
        parse_size(text)
    assert parse_size("64x128") == (64, 128)


def test_measuring_needs_the_device_and_two_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["preset", "measure", str(DEMO), "--preset", "cpu", "--size", "64x64"]) == USAGE
    assert "two sizes" in capsys.readouterr().err
    if not Path("/proc/driver/nvidia/version").exists():
        assert run(["preset", "measure", str(DEMO), "--preset", "gpu-8gb"]) == USAGE
        assert "no NVIDIA driver" in capsys.readouterr().err


def test_measured_peaks_become_a_line_that_lies_over_all_of_them() -> None:
    peaks = [Peak(pixels=p, peak_bytes=b) for p, b in ((100, 1200), (200, 1600), (300, 1800))]
    need = fit_need(peaks)
    assert need.bytes_per_pixel == 3
    assert all(need.base_bytes + 3 * peak.pixels >= peak.peak_bytes for peak in peaks)
    with pytest.raises(ValueError, match="two sizes"):
        fit_need(peaks[:1])


def test_a_size_that_costs_nothing_more_leaves_no_negative_slope() -> None:
    need = fit_need([Peak(pixels=1, peak_bytes=10), Peak(pixels=2, peak_bytes=9)])
    assert (need.base_bytes, need.bytes_per_pixel) == (10, 0)
