"""A model of this host is judged by all that takes no time before a byte of it is hashed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from tests.support.headers import safetensors
from tests.support.model_folders import write_folder

from cli.download.local import resolve_local
from cli.download.manifest import leave_out_optional
from cli.errors import Failure
from shared.errors import ModelUnavailable
from shared.models.check import check_folder
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.verify import write_descriptor

TERABYTE = 1 << 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


@pytest.fixture
def no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashed(path: Path) -> str:
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr("cli.download.local.hash_file", hashed)


def room(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    usage = SimpleNamespace(total=TERABYTE, used=0, free=free_bytes)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)


def sparse(path: Path, size_bytes: int, start: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size_bytes)


@pytest.mark.usefixtures("no_hash")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "its header would be 0 bytes"),
        ("vae/more.safetensors", "its header would be 0 bytes"),
        ("tokenizer/vocab.txt", "a file without weights has"),
        ("README.md", "a file without weights has"),
    ],
)
def test_a_sparse_file_is_refused_before_it_is_hashed(
    folder: Path, tmp_path: Path, name: str, why: str
) -> None:
    sparse(folder / name, TERABYTE)
    with pytest.raises(ModelUnavailable, match=why) as caught:
        resolve_local(folder, tmp_path / "root")
    assert caught.value.message.startswith(name)


def sound_sparse(path: Path) -> None:
    """A file whose header accounts for a terabyte."""
    tensor = {"a": {"dtype": "U8", "shape": [TERABYTE], "data_offsets": [0, TERABYTE]}}
    start = safetensors(tensor, b"")
    sparse(path, TERABYTE + len(start), start)


@pytest.mark.usefixtures("no_hash")
@pytest.mark.parametrize("name", ["alone.safetensors", "unet/diffusion_pytorch_model.safetensors"])
def test_what_the_disk_has_no_room_for_is_refused_before_it_is_hashed(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound_sparse(folder / name)
    room(monkeypatch, TERABYTE)
    path = folder / name if "/" not in name else folder
    with pytest.raises(Failure, match=r"1099\.5 GB to come, 1099\.5 GB free"):
        resolve_local(path, tmp_path / "not there yet")


def test_a_model_that_is_installed_needs_no_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    place = write_folder(root / "sd/m@1")
    given = DescriptorInput(name="m", version="1", source=Source(uri="import:model"))
    write_descriptor(place, describe_folder(place, given))
    room(monkeypatch, 0)
    assert resolve_local(folder, root).files
    (folder / "LICENSE").write_text("another")
    with pytest.raises(Failure, match="to come"):
        resolve_local(folder, root)


@pytest.mark.parametrize("name", ["unet", "tokenizer", "unet/config.json"])
def test_a_link_is_named_for_what_it_is(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "real")
    (folder / name).symlink_to(tmp_path / "real")
    with pytest.raises(Failure, match=f"{name}: a link") as caught:
        resolve_local(folder, tmp_path / "root")
    assert "cp -rL" in caught.value.hint


@pytest.mark.parametrize("part", ["safety_checker", "image_encoder"])
def test_an_optional_part_without_usable_weights_is_left_out_and_named(
    folder: Path, tmp_path: Path, part: str
) -> None:
    (folder / part).mkdir()
    (folder / part / "config.json").write_text("{}")
    (folder / part / "pytorch_model.bin").write_bytes(b"")
    resolved = leave_out_optional(resolve_local(folder, tmp_path / "root"))
    assert set(resolved.skipped) == {f"{part}/config.json", f"{part}/pytorch_model.bin"}
    (folder / part / "model.safetensors").write_bytes(safetensors({}, b""))
    resolved = leave_out_optional(resolve_local(folder, tmp_path / "root"))
    assert resolved.skipped == (f"{part}/pytorch_model.bin",)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (b"{}", POINTER),
        (b"{}", b""),
        (POINTER, safetensors({}, b"")),
        (b"{nope", safetensors({}, b"")),
        (None, safetensors({}, b"")),
    ],
)
def test_an_optional_part_that_is_broken_is_left_out_too(
    folder: Path, tmp_path: Path, config: bytes | None, weights: bytes
) -> None:
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(weights)
    if config is not None:
        (folder / "safety_checker/config.json").write_bytes(config)
    resolved = leave_out_optional(resolve_local(folder, tmp_path / "root"))
    assert "safety_checker/model.safetensors" in resolved.skipped
    assert not any(file.path.startswith("safety_checker/") for file in resolved.files)


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "unet/config.json", "model_index.json"]
)
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(ModelUnavailable, match=f"{name}: a pointer of Git LFS.*git lfs pull"):
        resolve_local(folder, tmp_path / "root")
        check_folder(folder)


def test_an_index_of_pickles_is_left_out_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "unet/pytorch_model.bin.index.json").write_text("{}")
    resolved = resolve_local(folder, tmp_path / "root")
    assert resolved.skipped == ("unet/pytorch_model.bin.index.json",)


@pytest.mark.parametrize("name", [b"mod\xe8le", "modèle".encode(), b"a b#?%20"])
def test_a_name_of_any_bytes_is_kept(tmp_path: Path, name: bytes) -> None:
    folder = write_folder(tmp_path / os.fsdecode(name))
    resolved = resolve_local(folder, tmp_path / "root")
    resolved.uri.encode()
    given = DescriptorInput(name="m", version="1", source=Source(uri=resolved.uri))
    write_descriptor(folder, describe_folder(folder, given))
    assert all(urlsplit(file.url).scheme == "file" for file in resolved.files)


def test_a_descriptor_is_utf_8_whatever_the_locale(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from shared.models.describe import DescriptorInput, describe_folder\n"
        "from shared.models.descriptor import Source\n"
        "from shared.models.verify import read_model, write_descriptor\n"
        "folder = Path(sys.argv[1])\n"
        "source = Source(uri='\\xe9')\n"
        "given = DescriptorInput(name='m', version='1', source=source, license='\\xa9')\n"
        "write_descriptor(folder, describe_folder(folder, given))\n"
        "assert read_model(folder).source.uri == '\\xe9'\n"
    )
    # A locale of ASCII: Latin-1 is installed nowhere by default, and has the same cause.
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("flux1-dev-Q4_K_S.gguf", r"put it into transformer/ .* beside config\.json"),
        ("model.ckpt", "a pickle"),
    ],
)
def test_a_lone_file_that_is_no_model_says_what_to_do_with_it(
    name: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"any")
    with pytest.raises(ModelUnavailable, match=why):
        resolve_local(tmp_path / name, tmp_path / "root")
