"""The whole recipe on three pictures and a few steps: it must run, not learn."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from shared.models.verify import read_model, verify_model

# diffusers hands torch tensors to numpy in the way of numpy 1; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOT = Path(__file__).parents[3]
CONCEPTS = ("red ball", "green box", "blue roof")
Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.syspath_prepend(str(ROOT))
    torch.set_num_threads(1)

    def run(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        importlib.import_module(f"training.{name}").main()

    return run


def draw(name: str) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(picture)
    match name.split():
        case [colour, "ball"]:
            pen.ellipse((12, 12, 52, 52), fill=colour)
        case [colour, "box"]:
            pen.rectangle((12, 12, 52, 52), fill=colour)
        case [colour, _]:
            pen.polygon([(32, 10), (56, 54), (8, 54)], fill=colour)
    return picture


def write_data(work: Path) -> None:
    np.save(work / "images.npy", np.stack([np.asarray(draw(name)) for name in CONCEPTS]))
    concepts = [
        {"name": name, "synonyms": [name.split()[1]], "tags": ["shape"]} for name in CONCEPTS
    ]
    rows = [{"concept": number, "background": None} for number in range(len(CONCEPTS))]
    (work / "concepts.json").write_text(json.dumps(concepts))
    (work / "rows.json").write_text(json.dumps(rows))


@pytest.mark.timeout(300)  # importing diffusers is most of it, and slow on a busy machine
def test_recipe_makes_a_sound_model_that_samples(script: Script, tmp_path: Path) -> None:
    target = tmp_path / "smoke@1"
    write_data(tmp_path)
    short = ("--work", tmp_path, "--device", "cpu", "--batch", 4, "--steps", 2)
    script("train_autoencoder", *short)
    script("train_text", *short)
    script("train_diffusion", *short, "--train-text")
    script("sample_latents", "--work", tmp_path, "--device", "cpu", "--per-concept", 1)
    script("train_autoencoder", *short, "--decoder-only")
    script("assemble", "--work", tmp_path, "--target", target)

    descriptor = read_model(target)
    verify_model(target, descriptor)
    assert descriptor.vocabulary == tuple(sorted(CONCEPTS))

    evaluate = importlib.import_module("training.evaluate")
    pipeline = evaluate.load(target, torch.device("cpu"))
    (picture,) = evaluate.make(pipeline, ["red ball"], seed=0)
    assert picture.size == (64, 64)


@pytest.mark.timeout(300)
def test_interrupted_training_goes_on_where_it_was(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path)
    common = ("--work", tmp_path, "--device", "cpu", "--batch", 4, "--steps")
    script("train_autoencoder", *common, 2)
    script("train_autoencoder", *common, 3)
    assert "resumed" in capsys.readouterr().out
    state = torch.load(tmp_path / "autoencoder.pt", weights_only=True)
    assert state["step"] == 3


@pytest.mark.timeout(300)
def test_the_upscaler_s_recipe_makes_a_sound_model_that_enlarges(
    script: Script, tmp_path: Path
) -> None:
    upscaler = importlib.import_module("training.upscaler")
    target, card = tmp_path / "upscaler@1", tmp_path / "card"
    card.mkdir()
    (card / "README.md").write_text("A card.")
    large = [draw(name).resize((256, 256)) for name in CONCEPTS * 2]
    small = [picture.resize((64, 64)) for picture in large]
    for name, pictures in (
        (upscaler.LARGE, large),
        (upscaler.SMALL, small),
        (upscaler.DRAWN, small),
    ):
        np.save(tmp_path / name, np.stack([np.asarray(picture) for picture in pictures]))
    (tmp_path / upscaler.CONCEPTS).write_text(json.dumps([*CONCEPTS, *CONCEPTS]))
    script("train_upscaler", "--work", tmp_path, "--device", "cpu", "--batch", 4, "--steps", 2)
    script("assemble_upscaler", "--work", tmp_path, "--target", target, "--card", card)

    descriptor = read_model(target)
    verify_model(target, descriptor)
    assert (descriptor.kind, descriptor.scale) == ("network", 4)
    assert descriptor.architecture == "Compact"
    evaluate = importlib.import_module("training.evaluate_upscaler")
    made = evaluate.ours(target)(small[0])
    assert made.size == (256, 256)
    wanted = evaluate._colours(large[0])
    assert evaluate.psnr_db(wanted, wanted) > 100
    assert evaluate.ssim(wanted, wanted) == pytest.approx(1)
    assert evaluate.ssim(evaluate._colours(made), wanted) < 1


def test_paraphrases_are_two_hundred_and_never_captions(script: Script) -> None:
    from random import Random

    concepts = importlib.import_module("training.concepts")
    captions = importlib.import_module("training.captions")
    held_out = [text for text, _ in concepts.read_paraphrases(concepts.HERE / "paraphrases.tsv")]
    assert len(set(held_out)) == 200
    known = concepts.read_concepts(concepts.HERE / "concepts.txt", large=False)
    assert len(known) >= 400
    data = [{"name": c.name, "synonyms": list(c.synonyms), "tags": []} for c in known]
    drawn = captions.Captions(data, held_out).vocabulary_text(Random(1), rounds=20)
    assert not set(drawn) & set(held_out)
