"""Checkpoints in one file: from a model site, an address or this host, through the real command."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support import civitai, families, hub, single_files
from tests.support.civitai import MODEL, OLD_VERSION, VERSION, Site
from tests.support.headers import CHECKPOINTS, VAE, of_shapes
from tests.support.hub import Hub

from cli import parts, worker_watch
from cli.download import patience
from cli.entry import run
from cli.model_folders import bundled
from runner.pipelines import load
from shared.db.models import list_models
from shared.db.presence import Slot, Worker, leave, upsert_worker
from shared.messages import GenerateParams, PresetSpec
from shared.model_schema import ModelDescriptor
from shared.registry import read_model, verify_model

Command = Callable[..., int]
REF = f"civitai:{MODEL}"
KEY = f"Dream-Shaper-v8@{VERSION}"
SD1 = of_shapes(CHECKPOINTS["sd1"])
LARGER = of_shapes({**CHECKPOINTS["sd1"], "more": (4000,)})
CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)


@pytest.fixture
def site() -> Iterator[Site]:
    with civitai.serving(Site(SD1)) as site:
        yield site


@pytest.fixture
def base() -> Iterator[Hub]:
    """A hub with the folder that an SD 1 checkpoint is completed from."""
    files = Hub.of(bundled()[0])
    del files.files["dreamforge.json"]
    files.repositories = ("stable-diffusion-v1-5/stable-diffusion-v1-5",)
    with hub.serving(files) as running:
        yield running


@pytest.fixture
def model(
    stack_environment: dict[str, str],
    site: Site,
    base: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    for name, value in stack_environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path))
    monkeypatch.setenv("CIVITAI_ENDPOINT", site.url)
    monkeypatch.setenv("CIVITAI_TOKEN", site.key)
    monkeypatch.setenv("HF_ENDPOINT", base.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(worker_watch, "WAIT_S", 0)
    return lambda *arguments: run(["model", *arguments])


def installed(root: Path, key: str = KEY, kind: str = "sd") -> ModelDescriptor:
    place = root / kind / key
    descriptor = read_model(place)
    verify_model(place, descriptor)
    assert not [path.name for path in (root / ".staging").iterdir()]
    return descriptor


def nothing_installed(root: Path) -> bool:
    return not list(root.glob("[!.]*/*@*"))


def file_requests(site: Site) -> list[tuple[str, str, str, str | None]]:
    return [seen for seen in site.seen if not seen[1].startswith("/api/v1/")]


# Which file, and what it needs beside it ----------------------------------------------------------


def test_a_checkpoint_is_proven_completed_and_installed(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("download", REF, "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["layout"], found["preset"]) == ("sd", "single_file", "cpu")
    descriptor = installed(tmp_path)
    assert (descriptor.source.uri, descriptor.source.revision) == (REF, str(VERSION))
    assert descriptor.config_source is not None
    assert descriptor.config_source.uri == "hf:stable-diffusion-v1-5/stable-diffusion-v1-5"
    paths = {file.path for file in descriptor.files}
    assert {"model.safetensors", "config/model_index.json", "config/unet/config.json"} <= paths
    assert [path for path in paths if path.endswith(".safetensors")] == ["model.safetensors"]


def test_the_second_download_asks_but_fetches_nothing(
    model: Command, site: Site, tmp_path: Path
) -> None:
    assert model("download", REF) == 0
    before = len(file_requests(site))
    assert model("download", REF) == 0
    assert len(file_requests(site)) == before


def test_another_preset_is_written_without_fetching_again(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model("download", REF) == 0
    before = len(file_requests(site))
    assert model("download", REF, "--preset", "gpu-8gb") == 0
    assert len(file_requests(site)) == before
    assert installed(tmp_path).default_preset == "gpu-8gb"
    assert model("download", REF, "--preset", "gpu-9gb") == 2
    assert "there is no preset 'gpu-9gb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reference", "version"),
    [(f"{MODEL}@{OLD_VERSION}", OLD_VERSION), (str(VERSION), VERSION)],
)
def test_a_version_is_named_after_its_model_or_alone(
    model: Command, tmp_path: Path, reference: str, version: int
) -> None:
    assert model("download", f"civitai:{reference}") == 0
    descriptor = installed(tmp_path, f"Dream-Shaper-v8@{version}")
    assert (descriptor.source.uri, descriptor.source.revision) == (REF, str(version))


def test_a_part_that_the_checkpoint_lacks_is_fetched_with_its_weights(
    model: Command, site: Site, tmp_path: Path
) -> None:
    site.content = of_shapes({k: v for k, v in CHECKPOINTS["sd1"].items() if k not in VAE})
    assert model("download", REF) == 0
    paths = {file.path for file in installed(tmp_path).files}
    assert "config/vae/diffusion_pytorch_model.safetensors" in paths
    assert "config/unet/diffusion_pytorch_model.safetensors" not in paths


def test_a_base_that_cannot_be_had_is_named_and_the_checkpoint_is_kept_for_next_time(
    model: Command,
    site: Site,
    base: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base.repositories = ()
    assert model("download", REF) == 2
    assert "or say where one is: --config FOLDER" in capsys.readouterr().err
    assert nothing_installed(tmp_path)
    before = len(file_requests(site))
    assert model("download", REF, "--config", str(bundled()[0])) == 0
    assert len(file_requests(site)) == before
    assert installed(tmp_path).config_source is not None


def test_a_configuration_that_is_refused_costs_no_weights(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(bundled()[0], wrong)
    (wrong / "vae" / "config.json").unlink()
    (wrong / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert model("download", REF, "--config", str(wrong)) == 2
    assert "config/vae/: missing" in capsys.readouterr().err
    before = len(file_requests(site))
    assert model("download", REF) == 0
    assert len(file_requests(site)) == before
    # Nor does one that is asked for later: what is installed stays as it is.
    assert model("download", REF, "--config", str(tmp_path / "nothing")) == 2
    assert "no such folder, and no reference" in capsys.readouterr().err
    assert model("download", REF, "--config", str(bundled()[0] / "unet")) == 2
    assert "has no model_index.json" in capsys.readouterr().err
    assert len(file_requests(site)) == before
    installed(tmp_path)


def test_ctrl_c_ends_at_once_and_the_next_download_goes_on(
    model: Command, site: Site, tmp_path: Path
) -> None:
    site.stall_s = 60
    # In the background of a shell the signal is ignored, and children inherit that.
    command = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cli.entry import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, "model", "download", REF],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert site.stalled.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert "stopped; the same command goes on where this one was" in process.stderr.read()
    site.stall_s = 0
    assert model("download", REF) == 0
    installed(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            of_shapes({"x.lora_down.weight": (1,)}),
            "a LoRA or its like, which changes a model and is none",
        ),
        (b"PK\3\4 a pickle in a zip", "not a sound safetensors file"),
        (of_shapes(CHECKPOINTS["sdxl"])[:-1], "not a sound safetensors file"),
    ],
)
def test_what_is_proven_and_no_model_is_refused_and_not_kept(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    says: str,
) -> None:
    site.content = content
    assert model("download", REF) == 2
    assert says in capsys.readouterr().err
    assert nothing_installed(tmp_path)
    assert not list((tmp_path / ".staging").iterdir())


@pytest.mark.parametrize(
    ("gpu_bytes", "preset"), [(8 * 10**9, "gpu-8gb"), (25 * 10**9, "gpu-24gb"), (10**9, "cpu")]
)
def test_the_gpus_of_the_live_workers_decide_which_preset_is_the_default(
    model: Command,
    stack_environment: dict[str, str],
    tmp_path: Path,
    gpu_bytes: int,
    preset: str,
) -> None:
    slots = [
        Slot(id="c", device="cpu", device_class="cpu", capacity_bytes=10**12, state="free"),
        Slot(id="g", device="cuda", device_class="g", capacity_bytes=gpu_bytes, state="held"),
    ]
    worker = Worker(id=uuid4(), host="h", version="1", queues=("default",), slots=slots, models={})
    url = stack_environment["DF_DATABASE_URL"]
    parts.transaction(url, partial(upsert_worker, worker=worker))
    try:
        assert model("download", REF) == 0
    finally:
        parts.transaction(url, partial(leave, worker_id=worker.id))
    assert installed(tmp_path).default_preset == preset


def test_the_command_waits_until_a_worker_has_looked_at_the_model(
    model: Command,
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = stack_environment["DF_DATABASE_URL"]
    idle = Worker(id=uuid4(), host="h", version="1", queues=("default",), slots=[], models={})
    parts.transaction(url, partial(upsert_worker, worker=idle))
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        (row,) = parts.transaction(url, list_models)
        has = replace(idle, models={row.id: row.checkpoint_sha256})
        parts.transaction(url, partial(upsert_worker, worker=has))

    try:
        assert model("download", REF, "-o", "json") == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["installed"] is False
        assert "no live worker has it" in said.err
        monkeypatch.setattr(worker_watch, "WAIT_S", 60)
        monkeypatch.setattr(time, "sleep", look)  # what a worker does in the meantime
        assert model("download", REF, "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["installed"] is True
        assert looks == 1
    finally:
        parts.transaction(url, partial(leave, worker_id=idle.id))


def test_a_preset_that_cannot_hold_the_model_is_refused_before_it_is_installed(
    model: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cpu = (files("shared") / "presets_data" / "cpu.toml").read_text()
    small = re.sub(
        r"(?m)^memory_bytes = .*$", "memory_bytes = 1", cpu.replace('"cpu"', '"small"', 1)
    )
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "small.toml").write_text(small)
    monkeypatch.setenv("DF_PRESETS_DIR", str(tmp_path / "presets"))
    assert model("download", REF, "--preset", "small") == 2
    assert "preset small cannot make a picture of" in capsys.readouterr().err
    assert nothing_installed(tmp_path)


# What the site says, and what it must not say -----------------------------------------------------


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
        ({"file": {"name": "model.ckpt"}}, "a pickle, which can run any code"),
        ({"file": {"name": 7}}, "the site answered oddly: modelVersions.0.files.0.name"),
        ({"file": {"sizeKB": 0.5}}, "longer than the"),
        ({"file": {"sizeKB": 99999}}, "instead of"),
        ({"model_type": "LORA"}, "is a LORA, not a model by itself"),
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
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"\x1b]0;owned\x07.zip" in said


# The token ----------------------------------------------------------------------------------------


def leaked(site: Site, root: Path, said: str) -> list[str]:
    """Where the key shows that must not see it."""
    found = [
        f"to {host}: {path}"
        for host, path, query, auth in site.seen
        if host == "store" and site.key in f"{path}{query}{auth}"
    ]
    files = [path for path in root.rglob("*") if path.is_file()]
    found += [str(path) for path in files if site.key.encode() in path.read_bytes()]
    return found + (["printed"] if site.key in said else [])


@pytest.mark.parametrize("door", ["open", "401", "page", "message"])
@pytest.mark.parametrize("takes_header", [True, False])
def test_the_token_opens_every_door_and_no_other_host_sees_it(
    model: Command,
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    door: civitai.Door,
    takes_header: bool,
) -> None:
    caplog.set_level("INFO")
    site.door, site.takes_header = door, takes_header
    site.content = LARGER  # than a message about a sign-in, by more than the site rounds
    assert model("download", REF) == 0
    installed(tmp_path)
    said = capsys.readouterr()
    assert not leaked(site, tmp_path, said.out + said.err + caplog.text)
    in_address = [seen for seen in site.seen if site.key in seen[2]]
    assert bool(in_address) == (not takes_header and door != "open")


@pytest.mark.parametrize("door", ["401", "page", "message"])
def test_a_refused_sign_in_is_recognised_with_the_remedy(
    model: Command,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    door: civitai.Door,
) -> None:
    site.door = door
    site.content = LARGER
    monkeypatch.setenv("CIVITAI_TOKEN", "a-wrong-key")
    assert model("download", REF) == 2
    said = capsys.readouterr()
    assert "most likely it wants a sign-in" in said.err
    assert "set CIVITAI_TOKEN to a key" in said.err
    assert "a-wrong-key" not in said.out + said.err
    assert nothing_installed(tmp_path)


def test_a_redirect_that_repeats_the_token_to_another_host_is_not_followed(
    model: Command, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.door, site.takes_header, site.echoes_query = "401", False, True
    assert model("download", REF) == 2
    said = capsys.readouterr()
    assert "would have shown it the token" in said.err
    assert not leaked(site, tmp_path, said.out + said.err)


@pytest.mark.parametrize("token", ["two words", "\u201cquoted\u201d", "line\nbreak"])
def test_what_no_request_can_carry_is_no_token(
    model: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    for name, reference in (("CIVITAI_TOKEN", REF), ("HF_TOKEN", "hf:a/b")):
        monkeypatch.setenv(name, token)
        assert model("download", reference) == 2
        said = capsys.readouterr().err
        assert f"{name} is no token" in said
        assert token not in said


# From this host, and from an address --------------------------------------------------------------


def test_a_file_of_this_host_is_imported_and_says_what_it_is(
    model: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "my checkpoint (v2).safetensors"
    source.write_bytes(SD1)
    assert model("import", str(source), "--config", str(bundled()[0]), "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "sd"
    digest = hashlib.sha256(f"{hashlib.sha256(SD1).hexdigest()}  model.safetensors\n".encode())
    assert found["name"] == f"my-checkpoint-v2@{digest.hexdigest()[:12]}"
    descriptor = installed(tmp_path, found["name"])
    assert descriptor.source.uri == "import:my checkpoint (v2).safetensors"


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
    assert model("import", str(bundled()[0]), "--name", "other") == 2
    assert "describes itself in its dreamforge.json" in capsys.readouterr().err


def test_an_address_with_its_hash_is_installed_and_a_file_address_too(
    model: Command, site: Site, tmp_path: Path
) -> None:
    digest = hashlib.sha256(SD1).hexdigest()
    config = ["--config", str(bundled()[0])]
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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_downloaded_checkpoint_draws(
    model: Command, site: Site, base: Hub, tmp_path: Path
) -> None:
    """The whole way with real weights: site, hub, registry, and the runner's own loader."""
    folder, single = tmp_path / "folder", tmp_path / "single"
    families.build("sd", folder)
    single_files.convert("sd", folder, single)
    site.content = (single / "model.safetensors").read_bytes()
    base.files = Hub.of(folder).files
    assert model("download", REF) == 0
    assert installed(tmp_path).layout == "single_file"
    pipeline = load("sd", tmp_path / "sd" / KEY, CPU, None, layout="single_file")
    asked = GenerateParams(prompt="a cat", width=64, height=48, steps=1, guidance=3.0)
    image, _ = pipeline.picture(asked, 1, lambda done, total: None)
    assert image.size == (64, 48)
