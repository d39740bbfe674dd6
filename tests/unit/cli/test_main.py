"""The command line itself: quick to start, and its failures are lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli import config
from cli.main import run

_HEAVY = ("httpx", "pydantic", "sqlalchemy", "psycopg", "rich", "torch", "celery", "alembic")


def test_help_loads_nothing_heavy() -> None:
    script = f"import sys, cli.main; print([m for m in {_HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]", loaded.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["job", "--help"], ["--version"]])
def test_help_and_version_are_no_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    assert "dreamforge" in capsys.readouterr().out


def test_migrate_without_its_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DF_DATABASE_URL", raising=False)
    assert run(["migrate"]) == 2
    assert capsys.readouterr().err.startswith("dreamforge: DF_DATABASE_URL is not set\n")


def test_migrate_against_nobody_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DF_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/x")
    assert run(["migrate"]) == 3
    assert "hidden" not in capsys.readouterr().err


@pytest.mark.parametrize(("command", "module"), [("api", "api"), ("worker", "supervisor")])
def test_a_single_part_replaces_the_command_by_its_process(
    command: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: called.append((path, argv)))
    assert run([command]) == 0
    assert called == [(sys.executable, [sys.executable, "-P", "-m", module])]


def test_a_wrong_setting_stops_up_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DF_HOME", str(tmp_path))
    monkeypatch.setenv("DF_API_PORT", "many")
    assert run(["up"]) == 1
    assert "dreamforge: DF_API_PORT: " in capsys.readouterr().err


def test_half_a_store_stops_up_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DF_HOME", str(tmp_path))
    monkeypatch.setenv("DF_S3_ENDPOINT", "http://s3.local")
    assert run(["up"]) == 1
    assert "DF_S3_SECRET_KEY" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_a_dotenv_file_counts_and_the_environment_counts_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DF_API_PORT=8100\nDF_HOME=/from/file\nOTHER=x\n")
    monkeypatch.setenv("DF_API_PORT", "8200")
    monkeypatch.delenv("DF_HOME", raising=False)
    environ = config.effective()
    assert environ["DF_API_PORT"] == "8200"
    assert config.home(environ).path == Path("/from/file")
    assert "OTHER" not in environ
    assert config.api_base(environ) == "http://127.0.0.1:8200"
    assert config.api_base({"DF_API_BASE": "http://h:1/"}) == "http://h:1"
    assert config.api_base({"DF_API_HOST": "::"}) == "http://[::1]:8001"
    assert config.api_base({"DF_API_HOST": "[::1]"}) == "http://[::1]:8001"


def test_a_running_stack_completes_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DF_HOME", str(tmp_path))
    monkeypatch.setenv("DF_REDIS_URL", "redis://mine")
    own = config.effective()
    config.home(own).write(
        "environment.json", {"DF_REDIS_URL": "redis://theirs", "DF_DATABASE_URL": "postgresql://x"}
    )
    assert config.environ() == own  # what a killed stack left is stale
    with config.home(own).lock():
        completed = config.environ()
    assert completed["DF_REDIS_URL"] == "redis://mine"
    assert completed["DF_DATABASE_URL"] == "postgresql://x"


def test_a_command_whose_package_an_image_lacks_ends_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub")

    monkeypatch.setattr("cli.main.app", lacking)
    assert run(["model", "download", "hf:a/b"]) == 1
    assert "no package huggingface_hub" in capsys.readouterr().err
