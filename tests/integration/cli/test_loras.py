"""LoRAs by the command line against a real registry, and creates that name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.api_harness import BODY, Api, running_api
from tests.support.loras import Tensors, install, write

from cli.main import run
from cli.models.install import register
from shared.models.folder import ONE_FILE

Command = Callable[..., int]
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        yield running


@pytest.fixture
def model(
    stack_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path / "models"))
    return lambda *arguments: run(["model", *map(str, arguments)])


def tensors(width: int) -> Tensors:
    down, up = np.ones((2, width), np.float32), np.ones((8, 2), np.float32)
    return {f"{LAYER}.lora_down.weight": down, f"{LAYER}.lora_up.weight": up}


def test_a_lora_is_imported_verified_and_removed_like_a_model(
    api: Api, model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "paper-cut", tensors(768)) / ONE_FILE
    assert model("import", source, "--name", "paper-cut", "--version", "1") == 0
    assert "family     sd" in capsys.readouterr().out
    assert model("verify", "paper-cut") == 0
    row = api.client.get("/v1/models/paper-cut").json()
    assert (row["kind"], row["family"], row["version"]) == ("lora", "sd", "1")
    assert model("import", source, "--name", "paper-cut", "--version", "1") == 0
    assert "no, it was here and is sound" in capsys.readouterr().out
    for option in (["--kind", "sd"], ["--preset", "cpu"]):
        assert model("import", source, "--name", "other", *option) != 0
        assert f"it needs no {option[0]}" in capsys.readouterr().err
    assert model("disable", "paper-cut") == 0
    assert model("remove", "paper-cut") == 0
    assert not (tmp_path / "models" / "lora" / "paper-cut@1").exists()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("style.pt", b"\x80\x04.", "style.pt: a pickle"),
        ("style.safetensors", b"\x80\x04.", "not a sound safetensors file"),
        ("dora.safetensors", tensors(768) | {f"{LAYER}.dora_scale": np.ones(8)}, "a DoRA"),
        ("half.safetensors", {f"{LAYER}.lora_up.weight": np.ones((8, 2))}, "has no down half"),
    ],
)
def test_what_is_no_lora_that_can_be_used_is_not_installed(
    name: str,
    content: bytes | Tensors,
    why: str,
    model: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        (write(tmp_path / "made", content) / ONE_FILE).rename(file)
    assert model("import", file) != 0
    assert why in capsys.readouterr().err
    assert not list((tmp_path / "models").glob("lora/*"))


def test_a_create_pins_its_loras_and_refuses_what_does_not_fit(api: Api, tmp_path: Path) -> None:
    database_url = api.settings.database_url.get_secret_value()
    base = api.install(capabilities=("generate", "lora"), lora_width=768)
    for name, width in (("fits", 768), ("wide", 1024)):
        install(tmp_path, name, tensors(width))
        register(database_url, tmp_path / "lora" / f"{name}@1")
    fits = api.client.get("/v1/models/fits").json()

    job = api.create(loras=[{"model_id": "fits", "scale": -0.5}])
    ((ids, params),) = api.sql("SELECT loras, params FROM steps WHERE job_id = %s", job)
    assert [str(each) for each in ids] == [fits["id"]]
    (pinned,) = params["loras"]
    assert (pinned["name"], pinned["scale"]) == ("fits", -0.5)
    assert pinned["checkpoint_sha256"] == fits["checkpoint_sha256"]
    assert api.client.get(f"/v1/jobs/{job}").json()["request"]["loras"][0]["scale"] == -0.5
    plain = api.create()
    assert api.sql("SELECT loras FROM steps WHERE job_id = %s", plain) == [(None,)]

    def refusal(*loras: Any, code: str = "invalid_input", **body: Any) -> str:
        answer = api.client.post("/v1/jobs", json=BODY | {"loras": loras} | body)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        return str(answer.json()["message"])

    assert "LoRAs that fit: fits@1" in refusal({"model_id": "wide"})
    assert "no such LoRA" in refusal({"model_id": "absent"}, code="model_unavailable")
    assert "is no LoRA" in refusal({"model_id": base.name})
    assert "is a LoRA" in refusal(model_id="fits")
    for scale in (4.01, -5, "1", None):
        assert "loras.0.scale" in refusal({"model_id": "fits", "scale": scale})
    assert "loras" in refusal(*({"model_id": f"m{n}"} for n in range(9)))
