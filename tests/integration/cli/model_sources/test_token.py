"""The token of a model site: the site accepts it in every form, and no other host sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import civitai
from tests.support.civitai import Site
from tests.support.model_downloads import LARGER, REF, Command, installed, nothing_installed


def leaked(site: Site, root: Path, output: str) -> list[str]:
    """Where the key shows that must not see it."""
    leaks = [
        f"to {host}: {path}"
        for host, path, query, auth in site.seen
        if host == "store" and site.key in f"{path}{query}{auth}"
    ]
    files = [path for path in root.rglob("*") if path.is_file()]
    leaks += [str(path) for path in files if site.key.encode() in path.read_bytes()]
    return leaks + (["printed"] if site.key in output else [])


@pytest.mark.parametrize("refusal", ["open", "401", "page", "message"])
@pytest.mark.parametrize("takes_header", [True, False])
def test_the_token_opens_every_door_and_no_other_host_sees_it(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    refusal: civitai.Refusal,
    takes_header: bool,
) -> None:
    caplog.set_level("INFO")
    site.refusal, site.takes_header = refusal, takes_header
    site.content = LARGER  # than a message about a sign-in, by more than the site rounds
    assert model("download", REF) == 0
    installed(tmp_path)
    output = capsys.readouterr()
    assert not leaked(site, tmp_path, output.out + output.err + caplog.text)
    in_address = [seen for seen in site.seen if site.key in seen[2]]
    assert bool(in_address) == (not takes_header and refusal != "open")


@pytest.mark.parametrize("refusal", ["401", "page", "message"])
def test_a_refused_sign_in_is_recognised_with_the_remedy(
    model: Command,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refusal: civitai.Refusal,
) -> None:
    site.refusal = refusal
    site.content = LARGER
    monkeypatch.setenv("CIVITAI_TOKEN", "a-wrong-key")
    assert model("download", REF) == 2
    output = capsys.readouterr()
    assert "most likely it wants a sign-in" in output.err
    assert "set CIVITAI_TOKEN to a key" in output.err
    assert "a-wrong-key" not in output.out + output.err
    assert nothing_installed(tmp_path)


def test_a_redirect_that_repeats_the_token_to_another_host_is_not_followed(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.refusal, site.takes_header, site.echoes_query = "401", False, True
    assert model("download", REF) == 2
    output = capsys.readouterr()
    assert "would have shown it the token" in output.err
    assert not leaked(site, tmp_path, output.out + output.err)


@pytest.mark.parametrize("token", ["two words", "\u201cquoted\u201d", "line\nbreak"])
def test_what_no_request_can_carry_is_no_token(
    model: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    for name, reference in (("CIVITAI_TOKEN", REF), ("HF_TOKEN", "hf:a/b")):
        monkeypatch.setenv(name, token)
        assert model("download", reference) == 2
        output = capsys.readouterr().err
        assert f"{name} is no token" in output
        assert token not in output
