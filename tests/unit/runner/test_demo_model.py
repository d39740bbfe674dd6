"""The model that ships with the project: whole, small, quiet, and it draws what one asks for."""

from __future__ import annotations

import inspect
import stat

import diffusers
import pytest
import torch
from tests.support.golden import CPU, MODEL, PROMPTS, TOLERANCE_DB, draw, golden, levels, psnr_db

from runner.diffusion.pipelines import TextToImage, load
from runner.diffusion.schedulers import CLASSES
from shared.models.families import DIFFUSION_SCHEDULERS
from shared.models.scheduler_names import NEED_A_SIGNAL
from shared.models.verify import read_model, verify_model

# diffusers hands torch tensors to numpy in the way of numpy 1; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAX_BYTES = 15_000_000
# Another way through the same noise ends at another picture of the same thing: 20 dB and more were
# seen, and 6 of what Heun's makes.
SAME_THING_DB = 12.0


@pytest.fixture(scope="module")
def loaded() -> TextToImage:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    return load("sd", MODEL, CPU, None)


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


@pytest.mark.parametrize("prompt", PROMPTS)
def test_golden_pictures_are_what_they_always_were(loaded: TextToImage, prompt: str) -> None:
    made = psnr_db(levels(draw(loaded, prompt)), golden(prompt))
    assert made > TOLERANCE_DB["cpu", "float32"]


def test_half_precision_draws_the_golden_picture_within_its_own_tolerance() -> None:
    half = load("sd", MODEL, CPU.model_copy(update={"dtype": "bfloat16"}), None)
    made = psnr_db(levels(draw(half, "red apple")), golden("red apple"))
    assert TOLERANCE_DB["cpu", "bfloat16"] < made < TOLERANCE_DB["cpu", "float32"]


# Told apart by their colours alone, which is crude and enough for these.
@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_gives_the_picture_of_its_name(loaded: TextToImage, prompt: str) -> None:
    made = levels(draw(loaded, prompt, seed=7))
    assert max(PROMPTS, key=lambda name: psnr_db(made, golden(name))) == prompt


def test_unknown_prompt_still_gives_a_picture(loaded: TextToImage) -> None:
    assert levels(draw(loaded, "qwertyuiop of the seventh kind")).std() > 0.02


@pytest.mark.parametrize("scheduler", read_model(MODEL).schedulers or ())
def test_every_scheduler_that_it_lists_draws_the_thing(scheduler: str) -> None:
    made = levels(draw(load("sd", MODEL, CPU, scheduler), "red apple"))
    assert psnr_db(made, golden("red apple")) > SAME_THING_DB


def test_schedulers_that_need_a_signal_are_not_listed() -> None:
    """Trained down to none, it makes noise of what Heun's starts with."""
    listed = read_model(MODEL).schedulers
    assert listed is not None
    assert set(DIFFUSION_SCHEDULERS) - set(listed) == set(NEED_A_SIGNAL)
    for name in NEED_A_SIGNAL:
        known = inspect.signature(getattr(diffusers, CLASSES[name].name).__init__).parameters
        assert "rescale_betas_zero_snr" not in known
    for name in listed:
        known = inspect.signature(getattr(diffusers, CLASSES[name].name).__init__).parameters
        assert "rescale_betas_zero_snr" in known, name
