"""What the demo model can draw, and whether a prompt asks for any of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cli.commands import demo
from cli.models.vocabulary import prompt_matches, read_synonyms, read_vocabulary
from cli.stack.seed_models import SeedModel
from cli.stack.stack import Stack

_WORDS = ["red apple", "snowman", "the crown"]


@pytest.mark.parametrize("prompt", ["an apple", "A Snowman, at night", "crown!"])
def test_a_prompt_with_a_known_word_is_known(prompt: str) -> None:
    assert prompt_matches(_WORDS, prompt)


@pytest.mark.parametrize("prompt", ["the sea", "applesauce", "", "a"])
def test_a_prompt_without_one_is_not(prompt: str) -> None:
    assert not prompt_matches(_WORDS, prompt)


def test_a_folder_without_a_list_draws_anything(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path) == []
    (tmp_path / "vocabulary.txt").write_text("red apple\n\n snowman \n")
    assert read_vocabulary(tmp_path) == ["red apple", "snowman"]


def _warned(folder: Path, prompt: str, capsys: pytest.CaptureFixture[str]) -> str:
    stack = SimpleNamespace(model=SeedModel(id="1", folder=folder))
    demo.warn(cast(Stack, stack), prompt)
    return capsys.readouterr().err


def test_the_demo_says_what_its_model_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocabulary.txt").write_text("red apple\n")
    assert _warned(tmp_path, "an apple", capsys) == ""
    warning = _warned(tmp_path, "the sea", capsys)
    assert "--list" in warning
    assert "dreamforge model import" in warning


def test_synonyms_are_words_that_the_model_knows_too(tmp_path: Path) -> None:
    (tmp_path / "synonyms.txt").write_text("burger\thamburger\nkitty\tcat face\n")
    assert prompt_matches(read_synonyms(tmp_path), "a kitty")
    assert read_synonyms(tmp_path / "elsewhere") == []
