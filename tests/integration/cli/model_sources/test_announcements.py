"""What a model site says, and what it must not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.civitai import OLD_VERSION, VERSION, Site
from tests.support.model_downloads import REF, SD1, Command, nothing_installed


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": {"hashes": {}}}, "names no SHA-256 of it"),
        ({"file": {"hashes": {"SHA256": "0" * 64}}}, "its SHA-256 is not the one that was"),
        ({"file": {"downloadUrl": "https://elsewhere.invalid/x"}}, "an address on another host"),
        ({"file": {"downloadUrl": "file:///etc/passwd"}}, "is no address of a host"),
        ({"file": {"downloadUrl": "http://[::1/x"}}, "is no address of a host"),
        ({"file": {"downloadUrl": "http://h:99999/x"}}, "is no address of a host"),
        ({"file": {"sizeKB": float("inf")}}, "the site answered oddly: modelVersions.0.files.0"),
        ({"file": {"sizeKB": 1e308}}, "the site answered oddly: modelVersions.0.files.0"),
        ({"file": {"name": "model.ckpt"}}, "a pickle, which can run any code"),
        ({"file": {"name": 7}}, "the site answered oddly: modelVersions.0.files.0.name"),
        ({"file": {"sizeKB": 0.5}}, "longer than the"),
        ({"file": {"sizeKB": 99999}}, "instead of"),
        ({"model_type": "TextualInversion"}, "is a TextualInversion, and no model"),
    ],
)
def test_an_announcement_that_proves_nothing_installs_nothing(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    says: str,
) -> None:
    if "0.5" in str(change):
        site.content = SD1 + b" " * 5000
    for name, value in change.items():
        setattr(site, name, value)
    assert model("download", REF) == 2
    assert says in capsys.readouterr().err
    assert nothing_installed(tmp_path)


def test_the_publishers_first_choice_is_taken_and_the_others_are_named(
    model: Command, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.more_files = [
        {"name": "full.safetensors", "type": "Model", "hashes": {}},
        {"name": "training.zip", "type": "Training Data"},
    ]
    assert model("download", REF) == 0
    assert "left out: full.safetensors, training.zip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("civitai:x", "is not civitai:<model id>"),
        ("civitai:99", "civitai:99 is not there, or it is private"),
        (f"{REF}@5", f"has no version 5\n  there are {VERSION} (8), {OLD_VERSION} (7)"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(
    model: Command, capsys: pytest.CaptureFixture[str], reference: str, says: str
) -> None:
    assert model("download", reference) == 2
    assert says in capsys.readouterr().err


def test_a_busy_site_is_waited_for_and_one_that_stays_busy_is_named(
    model: Command, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.api = [503, 429, 500]
    assert model("download", REF) == 0
    site.api = [503] * 100
    assert model("download", REF) == 3
    assert f"{REF}: 127.0.0.1: answered 503" in capsys.readouterr().err


def test_what_a_site_calls_a_file_does_not_speak_to_the_terminal(
    model: Command, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.more_files = [{"name": "\x1b]0;owned\x07.zip"}]
    assert model("download", REF) == 0
    errors = capsys.readouterr().err
    assert "\x1b" not in errors
    assert r"\x1b]0;owned\x07.zip" in errors


@pytest.mark.parametrize("kind", ["UNet", "Diffusion Model", "Pruned Model", "a new one"])
def test_a_file_of_any_type_that_may_be_a_model_is_taken(
    model: Command, site: Site, kind: str
) -> None:
    site.file = {"type": kind}
    assert model("download", REF) == 0


@pytest.mark.parametrize("kind", ["VAE", "Text Encoder", "Training Data", "Config"])
def test_a_file_that_is_no_model_is_left(
    model: Command, site: Site, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.file = {"type": kind}
    assert model("download", REF) == 2
    assert "holds no safetensors checkpoint" in capsys.readouterr().err


def test_the_newest_public_version_is_taken_and_named(
    model: Command, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.availability = ("EarlyAccess", "Public")
    assert model("download", REF) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"version {VERSION} (8) is in early access; taking {OLD_VERSION} (7)" in said
    site.availability = ("EarlyAccess", "EarlyAccess")
    assert model("download", REF, "--name", "bought") == 0
    assert "taking" not in capsys.readouterr().err


def test_a_file_on_a_sister_host_names_the_setting(
    model: Command, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.file = {"downloadUrl": "https://civitai.example/api/download/models/1"}
    assert model("download", REF) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "CIVITAI_TOKEN was not shown there" in said
    assert "CIVITAI_ENDPOINT=https://civitai.example:443" in said
