"""A model folder gets to its place whole and verified, or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.support.headers import safetensors

from cli.models import fit, networks
from cli.models.install import bundled_models, install, note_closed_files
from shared.errors import ModelUnavailable
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.networks import Network
from shared.models.verify import read_model, verify_model, write_descriptor

PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _model(tmp_path / "source", b"\0\0\0\0")


def _model(folder: Path, weights: bytes) -> Path:
    """The smallest folder that passes for a model: each network has one tensor."""
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline"}
    for part, entry in PARTS.items():
        (folder / part).mkdir(parents=True)
        index[part] = entry
        (folder / part / "config.json").write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(index))
    tensor = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, len(weights)]}}
    for name in ("unet/diffusion_pytorch_model", "vae/model", "text_encoder/model"):
        (folder / f"{name}.safetensors").write_bytes(safetensors(tensor, weights))
    described = describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test"))
    )
    write_descriptor(folder, described)
    return folder


def test_a_model_is_copied_to_its_place(model: Path, tmp_path: Path) -> None:
    place = install(model, tmp_path / "root")
    assert place == tmp_path / "root" / "sd" / "m@1"
    assert install(model, tmp_path / "root") == place
    assert install(place, tmp_path / "root") == place
    assert [path.name for path in place.parent.iterdir()] == ["m@1"]


def test_a_changed_file_is_refused_and_nothing_is_installed(model: Path, tmp_path: Path) -> None:
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelUnavailable, match=r"diffusion_pytorch_model\.safetensors"):
        install(model, tmp_path / "root")
    assert not list((tmp_path / "root").glob("[!.]*"))


def test_another_build_of_the_same_version_takes_its_place(model: Path, tmp_path: Path) -> None:
    place = install(model, tmp_path / "root")
    before = (place / "dreamforge.json").read_bytes()
    install(_model(tmp_path / "other", b"\0\0\0\1"), tmp_path / "root")
    assert (place / "dreamforge.json").read_bytes() != before


def test_a_model_that_was_damaged_in_its_place_is_replaced(model: Path, tmp_path: Path) -> None:
    place = install(model, tmp_path / "root")
    (place / "unet" / "config.json").unlink()
    assert install(model, tmp_path / "root") == place
    weights = place / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")  # of the same size
    assert install(model, tmp_path / "root") == place
    verify_model(place, read_model(place))


def test_a_model_that_is_imported_from_its_own_place_is_only_verified(
    model: Path, tmp_path: Path
) -> None:
    place = install(model, tmp_path / "root")
    (place / "unet" / "config.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"unet/config\.json: missing"):
        install(place, tmp_path / "root")


def test_a_folder_without_a_descriptor_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"dreamforge\.json"):
        install(tmp_path, tmp_path / "root")


def test_what_ships_installs(tmp_path: Path) -> None:
    for folder in bundled_models():
        install(folder, tmp_path)
        shutil.rmtree(tmp_path / folder.parent.name)


def test_nobody_but_the_owner_may_change_a_model_whatever_the_umask_is(
    model: Path, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        for path in model.rglob("*"):
            path.chmod(0o777)
        place = install(model, tmp_path / "root")
    finally:
        os.umask(before)
    for path in (place, *place.rglob("*")):
        assert path.stat().st_mode & 0o022 == 0, path


@pytest.mark.parametrize("name", [".", "unet", "unet/config.json"])
def test_files_that_a_worker_of_another_user_cannot_read_are_named(
    model: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_closed_files(model, model)
    assert capsys.readouterr().err == ""
    (model / name).chmod(0o700)
    note_closed_files(model, model)
    said = " ".join(capsys.readouterr().err.split())
    assert "a worker of another user cannot load the model" in said
    assert "chmod -R a+rX" in said


@pytest.mark.parametrize("name", ["root", "root/sd"])
def test_a_folder_of_an_earlier_import_that_others_cannot_enter_is_named(
    model: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    place = install(model, root)
    note_closed_files(place, root)
    assert capsys.readouterr().err == ""
    (tmp_path / name).chmod(0o700)
    note_closed_files(place, root)
    said = capsys.readouterr().err.replace("\n", "")
    assert f"only its owner can read {tmp_path / name}:" in said
    assert f"chmod a+rx {place.parent} {root} && chmod -R a+rX {place}" in said


def test_a_folder_that_describes_itself_is_compared_after_its_files_were_checked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Path] = []
    monkeypatch.setattr(fit, "refuse_misfit", compared.append)
    fit.refuse_described_misfit(model)
    assert compared == [model]
    (model / "unet" / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="a pickle"):
        fit.refuse_described_misfit(model)
    assert compared == [model]


@pytest.mark.parametrize(
    ("found", "scale", "refused"),
    [
        (Network(architecture="ESRGAN", scale=4), 4, ""),
        (Network(architecture="ESRGAN", scale=2), 4, "one of scale 2 by all its tensors"),
        (None, 4, "no network by all its tensors"),
    ],
)
def test_an_esrgan_is_loaded_once_since_some_of_its_tensors_said_what_it_is(
    found: Network | None, scale: int, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "can_run_networks", lambda: True)
    monkeypatch.setattr(networks, "describe_network", lambda file: found)
    if refused:
        with pytest.raises(ModelUnavailable, match=refused):
            networks.refuse_broken_esrgan(Path("model.safetensors"), scale)
    else:
        networks.refuse_broken_esrgan(Path("model.safetensors"), scale)
