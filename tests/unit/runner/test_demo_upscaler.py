"""The upscaler that ships: whole, small, and better than plain resampling of what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.support.golden import FOLDER, TOLERANCE_DB, UPSCALER, enlarge, golden, levels, psnr_db

from runner.upscalers.networks import describe_network
from shared.models.folder import ONE_FILE
from shared.models.verify import read_model, verify_model, weights_hash

MAX_BYTES = 3_000_000
# Single levels of single pixels. Another build of torch rounds so, and bfloat16 makes 61 dB of it.
SAME_DB = 70.0
RESULTS = Path(__file__).parents[3] / "training" / "results" / "upscaler.json"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_every_file_is_what_the_descriptor_says() -> None:
    verify_model(UPSCALER, read_model(UPSCALER))


def test_it_is_small_described_and_holds_no_code() -> None:
    files = [path for path in UPSCALER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png", ""}
    descriptor = read_model(UPSCALER)
    assert (descriptor.kind, descriptor.scale) == ("network", 4)
    assert describe_network(UPSCALER / ONE_FILE).architecture == descriptor.architecture
    assert len(weights_hash(descriptor)) == 64


def test_licences_of_all_that_it_was_made_from_are_there() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in UPSCALER.glob("LICENSE*")}
    assert "Microsoft Corporation" in texts["LICENSE-fluent-emoji.txt"]
    assert "LobeHub" in texts["LICENSE-fluent-emoji-3d.txt"]


def test_the_golden_picture_is_what_it_always_was() -> None:
    made = enlarge()
    assert made.size == (256, 256)
    assert psnr_db(levels(made), golden("enlarged")) > SAME_DB


def test_half_precision_makes_the_golden_picture_within_its_own_tolerance() -> None:
    half = psnr_db(levels(enlarge("bfloat16")), golden("enlarged"))
    assert TOLERANCE_DB["cpu", "bfloat16"] < half < SAME_DB


def test_it_adds_what_resampling_does_not() -> None:
    """The edge of the apple: its steepest brightness is that of a picture of this size."""
    small = Image.open(FOLDER / "red_apple_seed0.png").convert("RGB")
    plain = levels(small.resize((256, 256), Image.Resampling.LANCZOS))
    steepest = [
        abs(picture[:, 1:] - picture[:, :-1]).max() for picture in (levels(enlarge()), plain)
    ]
    assert steepest[0] > 1.2 * steepest[1]


def test_the_card_has_the_figures_that_were_measured() -> None:
    card = (UPSCALER / "README.md").read_text(encoding="utf-8")
    for title, ways in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        for way in ("bicubic", "Lanczos", "this model"):
            found = ways[way]
            figures = f"{found['median_psnr_db']:.2f} dB | {found['median_ssim']:.4f}"
            assert f"| {title} | {way} | {figures} |" in card
        assert ways["this model"]["median_psnr_db"] > ways["Lanczos"]["median_psnr_db"]
        assert ways["this model"]["median_ssim"] > ways["Lanczos"]["median_ssim"]
