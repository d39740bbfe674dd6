"""`dreamforge secrets`: random, made together, never replaced, and closed to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cli import secret_files
from cli.main import run
from shared.auth import parse_api_keys


def test_passwords_agree_between_a_server_and_the_address_that_names_it() -> None:
    files = secret_files.contents()
    assert f":{files['postgres_password']}@" in files["df_admin_database_url"]
    assert files["postgres_password"] not in files["df_database_url"]
    assert files["redis_conf"] == f"requirepass {files['df_redis_url'].split(':')[2].split('@')[0]}"


def test_every_secret_is_random_and_no_two_are_the_same() -> None:
    one, two = secret_files.contents(), secret_files.contents()
    assert all(one[name] != two[name] for name in one)
    keys = parse_api_keys(one["df_api_keys"])
    assert one["api_key"] not in one["df_api_keys"] and len(keys) == 1


def test_the_folder_is_its_owners_and_the_key_for_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    before = os.umask(0o077)
    try:
        secret_files.write(folder, secret_files.contents())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert modes.pop("api_key") == 0o600
    assert set(modes.values()) == {0o644}


def test_an_open_folder_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    secret_files.write(tmp_path, secret_files.contents())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_nothing_that_is_there_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "postgres_password").write_text("old")
    assert run(["secrets", str(tmp_path)]) == 2
    assert "postgres_password" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["postgres_password"]
    assert (tmp_path / "postgres_password").read_text() == "old"


def test_the_command_says_where_the_key_is_and_not_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secrets"
    assert run(["secrets", str(folder)]) == 0
    printed = "".join(capsys.readouterr())
    assert "api_key" in printed.replace("\n", "")
    assert not [path for path in folder.iterdir() if path.read_text() in printed]
