"""Models from this host, and from an address with its hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.support import families, upscalers
from tests.support.civitai import Site
from tests.support.headers import of_shapes
from tests.support.model_downloads import KEY, REF, SD1, Command, installed, nothing_installed

from cli.models.install import bundled_models


def test_a_file_of_this_host_is_imported_and_says_what_it_is(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "my checkpoint (v2).safetensors"
    source.write_bytes(SD1)
    assert model("import", str(source), "--config", str(bundled_models()[0]), "-o", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "sd"
    digest = hashlib.sha256(f"{hashlib.sha256(SD1).hexdigest()}  model.safetensors\n".encode())
    assert report["name"] == f"my-checkpoint-v2@{digest.hexdigest()[:12]}"
    descriptor = installed(tmp_path, report["name"])
    assert descriptor.source.uri == "import:my checkpoint (v2).safetensors"


def test_an_upscaler_of_any_kind_is_imported_and_says_what_it_is(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upscalers.network(tmp_path / "made", "SPAN")
    source = tmp_path / "4x sharp.safetensors"
    (tmp_path / "made" / "model.safetensors").rename(source)
    assert model("import", str(source), "--name", "sharp", "--version", "1", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "network"
    found = installed(tmp_path, "sharp@1", kind="network")
    assert (found.architecture, found.scale, found.layout) == ("SPAN", 2, "network")
    assert model("import", str(source), "--config", str(bundled_models()[0])) == 2
    assert "an upscaler is its one file" in capsys.readouterr().err


def test_a_file_that_no_library_knows_is_refused_with_its_first_tensor(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "odd.safetensors"
    source.write_bytes(of_shapes({"odd.weight": (2, 2)}))
    assert model("import", str(source)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "no model that is known here (its first tensor is 'odd.weight')" in said
    assert nothing_installed(tmp_path)


def test_a_folder_without_a_description_is_described(model: Command, tmp_path: Path) -> None:
    folder = tmp_path / "from-elsewhere"
    families.build("sd", folder)
    (folder / "dreamforge.json").unlink()
    assert model("import", str(folder), "--name", "mine", "--version", "1") == 0
    assert installed(tmp_path, "mine@1").kind == "sd"


def test_a_folder_is_imported_without_what_a_model_does_not_need(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a-clone"
    families.build("sd", folder)
    (folder / "dreamforge.json").unlink()
    (folder / ".git").mkdir()
    for name in (".git/config", ".gitattributes", "unet/weights.bin", "preview.png"):
        (folder / name).write_bytes(b"x")
    assert model("import", str(folder), "--name", "clone", "--version", "1") == 0
    assert "left out: preview.png, unet/weights.bin" in capsys.readouterr().err
    installed(tmp_path, "clone@1")
    (folder / "unet/config.json").rename(folder / "unet/real.json")
    (folder / "unet/config.json").symlink_to("real.json")
    assert model("import", str(folder), "--name", "links", "--version", "1") == 2
    assert "copy what the links point at first: cp -rL" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, {}, {"a.png": b"x"}, {"a.safetensors": b""}])
def test_what_is_no_model_is_refused_with_a_line(
    model: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: dict[str, bytes] | None,
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for name, data in (content or {}).items():
        (folder / name).write_bytes(data)
    target = folder if content is not None else folder / "nothing"
    assert model("import", str(target)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert nothing_installed(tmp_path)


@pytest.mark.parametrize("reference", ["https://[::1/x#sha256=", "https://h:abc/x#sha256="])
def test_an_address_that_is_none_is_refused_with_a_line(
    model: Command, capsys: pytest.CaptureFixture[str], reference: str
) -> None:
    assert model("download", reference + "0" * 64) == 2
    assert "is no address" in capsys.readouterr().err


def test_a_described_folder_takes_no_other_name(
    model: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("import", str(bundled_models()[0]), "--name", "other") == 2
    assert "describes itself in its dreamforge.json" in capsys.readouterr().err


def test_an_address_with_its_hash_is_installed_and_a_file_address_too(
    model: Command, site: Site, tmp_path: Path
) -> None:
    digest = hashlib.sha256(SD1).hexdigest()
    config = ["--config", str(bundled_models()[0])]
    address = f"{site.store_url}/signed/a.safetensors?key=secret#sha256={digest}"
    assert model("download", address, *config) == 0
    descriptor = installed(tmp_path, f"a@{digest[:12]}")
    assert "secret" not in descriptor.source.uri
    local = tmp_path / "b.safetensors"
    local.write_bytes(SD1)
    assert model("download", f"{local.as_uri()}#sha256={digest}", *config) == 0
    installed(tmp_path, f"b@{digest[:12]}")


def test_a_kind_that_is_said_overrules_and_a_wrong_one_is_refused(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("download", REF, "--kind", "auto") == 0
    installed(tmp_path, kind="auto")
    assert model("download", REF, "--kind", "sd") == 0
    installed(tmp_path)
    assert not (tmp_path / "auto" / KEY).exists()
    assert model("download", REF, "--kind", "nonsense") == 2
    assert "kind 'nonsense'" in capsys.readouterr().err
    assert model("download", REF, "--name", "other", "--kind", "esrgan") == 2
    assert "go with kinds of upscalers" in capsys.readouterr().err
