"""What a source announces is held to rules before a byte is fetched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cli.download.manifest import check_manifest, find_lone_checkpoint, rename_lone_checkpoint
from cli.download.source import RemoteFile, ResolvedModel, parse_origin, to_model_name
from cli.errors import Failure
from shared.errors import ModelUnavailable

HASH = "0" * 64


def file(path: str) -> RemoteFile:
    return RemoteFile(path=path, url=f"https://example.org/{path}", sha256=HASH)


def listed(*paths: str) -> ResolvedModel:
    return ResolvedModel(
        name="m", version="1", uri="test:m", revision="1", files=tuple(map(file, paths))
    )


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["../x.json"], "leaves the model's folder"),
        (["/etc/x.json"], "leaves the model's folder"),
        (["a\\b.json"], "leaves the model's folder"),
        (["./x.json"], "not a plain file name"),
        (["a//x.json"], "not a plain file name"),
        (["x\x1b[2J.json"], "not a plain file name"),
        (["x\u202e.json"], "not a plain file name"),
        (["x\udcff.json"], "not a plain file name"),
        ([f"{'x' * 260}.json"], "not a plain file name"),
        (["x.json", "x.json"], "listed twice"),
        (["x.json", "X.JSON"], "listed twice"),
        (["Gr\u00f6\u00dfe.json", "Gro\u0308\u00dfe.json"], "listed twice"),
        (["LICENSE", "LICENSE/x.json"], "listed as a file and as a folder"),
        (["dreamforge.json"], "only this host writes it"),
        (["x.py"], "not a kind of file that belongs"),
    ],
)
def test_a_list_that_cannot_be_installed_safely_is_refused(paths: list[str], why: str) -> None:
    with pytest.raises(ModelUnavailable, match=why):
        check_manifest(listed(*paths))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sha256": None}, "names no hash of it"),
        ({"sha256": "main"}, "names no hash of it"),
        ({"sha256": None, "git_sha1": "0" * 39}, "names no hash of it"),
        ({"url": "file:///etc/passwd"}, "an address of another kind"),
        ({"url": "ftp://example.org/x"}, "an address of another kind"),
    ],
)
def test_what_proves_nothing_or_is_no_download_is_refused(
    change: dict[str, str | None], why: str
) -> None:
    changed = replace(file("x.json"), **change)  # type: ignore[arg-type]
    with pytest.raises(ModelUnavailable, match=why):
        check_manifest(replace(listed(), files=(changed,)))


def test_a_sound_list_passes() -> None:
    check_manifest(listed("model_index.json", "unet/x.safetensors", "Lies mich, Größe 1.md"))
    by_git = RemoteFile(path="x.json", url="http://example.org/x", git_sha1="a" * 40)
    check_manifest(replace(listed(), files=(by_git,)))


def test_a_checkpoint_that_comes_alone_gets_the_name_that_such_files_have_here() -> None:
    renamed = rename_lone_checkpoint(listed("sub/sd_xl_base.safetensors", "LICENSE"))
    assert [each.path for each in renamed.files] == ["model.safetensors", "LICENSE"]
    whole = listed("model_index.json", "unet/x.safetensors")
    assert rename_lone_checkpoint(whole) is whole
    assert find_lone_checkpoint(whole.files) is None


def test_several_checkpoints_without_an_index_are_a_choice() -> None:
    with pytest.raises(Failure) as caught:
        rename_lone_checkpoint(listed("a.safetensors", "b.safetensors"))
    assert "has no model_index.json" in caught.value.message
    assert "with #NAME: a.safetensors, b.safetensors" in caught.value.hint


def test_an_origin_has_one_spelling() -> None:
    assert parse_origin("https://Example.org/a") == parse_origin("https://example.org:443/b")
    assert parse_origin("http://example.org") != parse_origin("https://example.org")
    assert parse_origin("http://127.0.0.1:1") != parse_origin("http://127.0.0.1:2")


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Dream Shaper (v8)", "Dream-Shaper-v8"), ("../../etc", "etc"), ("夢", "model"), ("a", "a")],
)
def test_a_foreign_name_becomes_a_plain_one(name: str, plain: str) -> None:
    assert to_model_name(name) == plain
