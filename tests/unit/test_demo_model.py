"""The model that ships with the project: whole, small, quiet, and it draws what one asks for."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runner.pipelines import TextToImage, load
from shared.messages import GenerateParams, PresetSpec
from shared.registry import read_model, verify_model

# diffusers hands torch tensors to numpy in the way of numpy 1; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MODEL = Path(__file__).parents[2] / "models" / "sd" / "dreamforge-demo@1"
GOLDEN = Path(__file__).parent / "golden"
MAX_BYTES = 15_000_000
CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)
# Pictures that are told apart by their colours alone, which is crude and enough for these.
KNOWN = ("red apple", "green apple", "banana", "blue heart", "pumpkin")


@pytest.fixture(scope="module")
def loaded() -> TextToImage:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    return load("sd", MODEL, CPU, None)


def draw(loaded: TextToImage, prompt: str, seed: int = 0) -> np.ndarray:
    defaults = read_model(MODEL).defaults
    params = GenerateParams(
        prompt=prompt,
        width=defaults.width,
        height=defaults.height,
        steps=defaults.steps,
        guidance=defaults.guidance,
    )
    image, blocked = loaded.picture(params, seed, lambda step, steps: None)
    assert not blocked
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def psnr_db(made: np.ndarray, wanted: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((made - wanted) ** 2) + 1e-12))


def golden(name: str) -> np.ndarray:
    path = GOLDEN / f"{name.replace(' ', '_')}_seed0.png"
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255


def test_every_file_is_what_the_descriptor_says() -> None:
    verify_model(MODEL, read_model(MODEL))


def test_model_is_small_and_holds_no_code() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".png", ""}


def test_every_user_of_the_host_may_read_the_files() -> None:
    unreadable = [p for p in MODEL.rglob("*") if not p.stat().st_mode & stat.S_IROTH]
    assert unreadable == []


def test_vocabulary_names_at_least_four_hundred_things_once() -> None:
    lines = (MODEL / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) >= 400
    assert read_model(MODEL).vocabulary == tuple(lines)


def test_licences_of_all_that_it_was_made_from_are_there() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in MODEL.glob("LICENSE*")}
    assert "Microsoft Corporation" in texts["LICENSE-fluent-emoji.txt"]
    assert "LobeHub" in texts["LICENSE-fluent-emoji-3d.txt"]
    assert "Miles Johnson" in texts["LICENSE-emojibase-data.txt"]
    assert "UNICODE LICENSE V3" in texts["LICENSE-unicode.txt"]


def test_loading_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load("sd", MODEL, CPU, None)  # Python's own warnings are errors in this suite anyway
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_red_apple_is_the_red_apple_it_always_was(loaded: TextToImage) -> None:
    # Other processors round otherwise; one that draws another apple is below 20 dB.
    assert psnr_db(draw(loaded, "red apple"), golden("red apple")) > 35


@pytest.mark.parametrize("prompt", KNOWN)
def test_prompt_gives_the_picture_of_its_name(loaded: TextToImage, prompt: str) -> None:
    made = draw(loaded, prompt, seed=7)
    assert max(KNOWN, key=lambda name: psnr_db(made, golden(name))) == prompt


def test_unknown_prompt_still_gives_a_picture(loaded: TextToImage) -> None:
    assert draw(loaded, "qwertyuiop of the seventh kind").std() > 0.02
