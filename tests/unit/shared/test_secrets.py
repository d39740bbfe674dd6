"""Secrets are read from one folder, by both services and the command line alike."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cli import config, secret_files
from shared import settings as settings_module
from shared.secrets import secrets_in
from shared.settings import Settings, settings_or_exit


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for /run/secrets with what the generator makes; nothing else is set."""
    folder = tmp_path / "run-secrets"
    secret_files.write(folder, secret_files.contents())
    monkeypatch.setattr(settings_module, "SECRETS_DIR", folder)
    monkeypatch.setattr(config, "SECRETS_DIR", folder)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", folder)
    monkeypatch.chdir(tmp_path)  # no `.env`
    for name in [name for name in os.environ if name.startswith("DF_")]:
        monkeypatch.delenv(name)
    return folder


def test_the_settings_read_what_the_generator_made(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DF_S3_ENDPOINT", "http://s3:7070")
    read = settings_or_exit("api")
    key = (mounted / "api_key").read_text()
    assert [(known.name, known.sha256) for known in read.api_keys] == [
        ("default", hashlib.sha256(key.encode()).digest())
    ]
    assert read.s3_secret_key.get_secret_value() == (mounted / "df_s3_secret_key").read_text()


def test_the_command_line_reads_secrets_below_the_environment(
    mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = config.effective()
    assert found["DF_DATABASE_URL"] == (mounted / "df_database_url").read_text()
    assert "POSTGRES_PASSWORD" not in found
    monkeypatch.setenv("DF_DATABASE_URL", "postgresql://elsewhere")
    assert config.effective()["DF_DATABASE_URL"] == "postgresql://elsewhere"


def test_folders_that_kubernetes_puts_beside_secrets_are_none(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.io").mkdir()
    (tmp_path / "df_nothing").mkdir()
    (tmp_path / "df_log_level").write_text("INFO\n")
    assert secrets_in(tmp_path) == {"DF_LOG_LEVEL": "INFO"}
    assert secrets_in(tmp_path / "nowhere") == {}


def test_a_secret_that_is_missing_is_named_with_the_place_it_was_looked_for(
    mounted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mounted / "df_redis_url").unlink()
    with pytest.raises(SystemExit) as ended:
        settings_or_exit("api")
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"api: DF_REDIS_URL: is not set, and there is no {mounted / 'df_redis_url'}" in lines


def test_a_secret_that_we_may_not_read_is_one_line(
    mounted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so it is refused here as the kernel would refuse another user."""
    read = Path.read_text

    def refused(path: Path, *args: str, **options: str) -> str:
        if path.name == "df_database_url":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(SystemExit) as ended:
        settings_or_exit("worker")
    assert ended.value.code == 2
    where = mounted / "df_database_url"
    assert capsys.readouterr().err == f"worker: {where}, a secret: Permission denied\n"


def test_a_folder_of_secrets_that_we_may_not_read_is_one_line(
    mounted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(SystemExit) as ended:
        settings_or_exit("worker")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"worker: {mounted}, a secret: Permission denied\n"
