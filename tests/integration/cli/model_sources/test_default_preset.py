"""Which preset a model gets when it arrives, and when the command says that it can be used."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import pytest
from tests.support.model_downloads import REF, Command, installed, nothing_installed

from cli import backends
from cli.models import availability
from shared.db.models import list_models
from shared.db.workers import Slot, Worker, deregister, upsert


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
    backends.transaction(url, upsert, worker)
    try:
        assert model("download", REF) == 0
    finally:
        backends.transaction(url, deregister, worker.id)
    assert installed(tmp_path).default_preset == preset


def test_the_command_waits_until_a_worker_has_looked_at_the_model(
    model: Command,
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = stack_environment["DF_DATABASE_URL"]
    idle = Worker(id=uuid4(), host="h", version="1", queues=("default",), slots=[], models={})
    backends.transaction(url, upsert, idle)
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        (row,) = backends.transaction(url, list_models)
        has = replace(idle, models={row.id: row.checkpoint_sha256})
        backends.transaction(url, upsert, has)

    try:
        assert model("download", REF, "-o", "json") == 0
        output = capsys.readouterr()
        assert json.loads(output.out)["installed"] is False
        assert "no live worker has it" in output.err
        monkeypatch.setattr(availability, "WAIT_S", 60)
        monkeypatch.setattr(time, "sleep", look)  # what a worker does in the meantime
        assert model("download", REF, "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["installed"] is True
        assert looks == 1
    finally:
        backends.transaction(url, deregister, idle.id)


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
