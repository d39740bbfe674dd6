"""What a person sees of a download, in a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.download import progress


def seen_in_terminal(monkeypatch: pytest.MonkeyPatch, *, finish: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=20)
    monkeypatch.setattr(progress, "err", console)
    with progress.progress_display() as display:
        weights = display.begin("unet/model.safetensors", 4_000_000)
        config = display.begin("model_index.json", 500)
        weights(1_000_000)
        config(500)
        assert isinstance(display, progress.ProgressBars)
        if finish:
            weights(4_000_000)
        paper = Console(file=io.StringIO(), width=100)
        with paper.capture() as shown:
            paper.print(display.progress.get_renderable())
        return shown.get()


def test_a_bar_tells_the_file_its_bytes_and_goes_when_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = seen_in_terminal(monkeypatch, finish=False)
    assert "unet/model.safetensors" in shown
    assert "1.0/4.0 MB" in shown
    assert "model_index.json" not in shown
    assert "unet/model.safetensors" not in seen_in_terminal(monkeypatch, finish=True)


def test_elsewhere_there_is_a_line_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress_display() as display:
        display.begin("unet/model.safetensors", 4_000_000)(1)
        display.begin("no-length.json", None)(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["fetching unet/model.safetensors (4.0 MB)", "fetching no-length.json"]
