"""A setting that is gone ends the start with a line that says so, wherever it was set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli import backends
from cli.errors import Failure
from shared import settings as settings_module
from shared.settings import Settings, settings_or_exit
from shared.settings_removed import REMOVED

REQUIRED = {
    "DF_DATABASE_URL": "postgresql://u:p@localhost/d",
    "DF_REDIS_URL": "redis://:p@localhost/0",
    "DF_S3_ENDPOINT": "http://localhost:9000",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets folder of a service that has all that it needs; the current folder is empty."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setattr(settings_module, "SECRETS_DIR", folder)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", folder)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DF_")]:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return folder


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a start ends."""
    with pytest.raises(SystemExit) as ended:
        settings_or_exit("worker")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_not_gone_starts() -> None:
    settings_or_exit("worker")


@pytest.mark.parametrize("name", REMOVED)
def test_in_the_environment(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "5")
    assert refusal(capsys) == f"worker: {name} is no setting any more: {REMOVED[name]}. Remove it"


@pytest.mark.parametrize("name", REMOVED)
def test_in_the_env_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_text(f"{name}=5\n")
    assert refusal(capsys).startswith(f"worker: {name} is no setting any more")


@pytest.mark.parametrize("name", REMOVED)
def test_in_the_secrets_folder(
    name: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (secrets / name.lower()).write_text("5")
    assert refusal(capsys).startswith(f"worker: {name} is no setting any more")


def test_an_empty_value_is_refused_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_QUEUES", "")
    assert "DF_QUEUES" in refusal(capsys)


def test_it_is_said_beside_what_is_wrong_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_LEASE_S", "30")
    monkeypatch.setenv("DF_DEVICE", "tpu")
    with pytest.raises(SystemExit):
        settings_or_exit("worker")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["DF_LEASE_S", "DF_DEVICE:"]


def test_the_command_line_refuses_it_with_the_same_line() -> None:
    with pytest.raises(Failure, match="DF_QUEUES is no setting any more") as refused:
        backends.settings(REQUIRED | {"DF_QUEUES": "default"})
    assert refused.value.exit_code == 2


def test_none_of_them_is_a_setting() -> None:
    assert REMOVED.keys().isdisjoint(f"DF_{name.upper()}" for name in Settings.model_fields)
