"""A setting without a value is its default, wherever its line stands."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from cli import backends, config
from cli.errors import Failure
from shared import settings as settings_module
from shared.settings import Settings, settings_or_exit

REQUIRED = {
    "DF_DATABASE_URL": "postgresql://u:p@localhost/d",
    "DF_REDIS_URL": "redis://:p@localhost/0",
    "DF_S3_ENDPOINT": "http://localhost:9000",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}
OPTIONAL = [name for name, field in Settings.model_fields.items() if not field.is_required()]
BLANKS = ("", "  ", "\t")
Put = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets folder; the current folder is another, and nothing is set but what must be."""
    secrets, here = tmp_path / "secrets", tmp_path / "here"
    secrets.mkdir()
    here.mkdir()
    monkeypatch.setattr(settings_module, "SECRETS_DIR", secrets)
    monkeypatch.setattr(config, "SECRETS_DIR", secrets)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", secrets)
    monkeypatch.chdir(here)
    for name in [name for name in os.environ if name.startswith("DF_")]:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return secrets


@pytest.fixture(params=["environment", ".env", "secret"])
def put(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Set a variable in one of the places where settings come from."""

    def write(name: str, value: str) -> None:
        match request.param:
            case "environment":
                monkeypatch.setenv(name, value)
            case ".env":
                Path(".env").write_text(f'{name}="{value}"\n', encoding="utf-8")
            case _:
                (folder / name.lower()).write_text(value, encoding="utf-8")

    return write


# Each setting in each place with one of the blanks.
@pytest.mark.parametrize(("field", "blank"), list(zip(OPTIONAL, cycle(BLANKS), strict=False)))
def test_a_blank_setting_is_its_default(put: Put, field: str, blank: str) -> None:
    put(f"DF_{field.upper()}", blank)
    expected = Settings.model_fields[field].get_default()
    assert getattr(settings_or_exit("api"), field) == expected
    assert getattr(backends.settings(config.effective()), field) == expected


@pytest.mark.parametrize("name", REQUIRED)
def test_a_blank_setting_that_must_be_there_is_not_set(
    put: Put, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(name)
    put(name, " ")
    with pytest.raises(SystemExit):
        settings_or_exit("api")
    assert f"api: {name}: is not set" in capsys.readouterr().err
    with pytest.raises(Failure, match=f"{name}: is not set"):
        backends.settings(config.effective())


def test_a_blank_setting_leaves_the_word_to_the_next_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose passes a blank variable on, and the secret has the value."""
    (folder / "df_default_model").write_text("of-a-secret", encoding="utf-8")
    monkeypatch.setenv("DF_DEFAULT_MODEL", "")
    assert settings_or_exit("api").default_model == "of-a-secret"
    assert config.effective()["DF_DEFAULT_MODEL"] == "of-a-secret"
    Path(".env").write_text("DF_DEFAULT_MODEL=of-a-line\n", encoding="utf-8")
    assert settings_or_exit("api").default_model == "of-a-line"
    assert config.effective()["DF_DEFAULT_MODEL"] == "of-a-line"


def test_variables_of_others_stay_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """To CUDA an empty list of devices is not the same as none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert config.effective()["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("content", "level"),
    [(b"DF_LOG_LEVEL=DEBUG\n", "DEBUG"), (b"\xef\xbb\xbfDF_LOG_LEVEL=DEBUG\r\n", "DEBUG")],
)
def test_a_file_of_settings_may_begin_with_a_mark(folder: Path, content: bytes, level: str) -> None:
    Path(".env").write_bytes(content)
    assert settings_or_exit("test").log_level == level
    assert config.effective()["DF_LOG_LEVEL"] == level


@pytest.mark.parametrize("content", [b"DF_LOG_LEVEL=\xe9", "DF_LOG_LEVEL=INFO".encode("utf-16")])
def test_a_file_of_settings_that_is_no_utf_8_is_named_and_not_shown(
    folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        settings_or_exit("test")
    assert capsys.readouterr().err == "test: .env: is not text in UTF-8\n"
    with pytest.raises(OSError, match="is not text in UTF-8"):
        config.effective()
    Path(".env").unlink()
    (folder / "df_log_level").write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        settings_or_exit("test")
    said = capsys.readouterr().err
    assert said == f"test: {folder / 'df_log_level'}, a secret: is not text in UTF-8\n"


def test_a_folder_called_env_is_no_file_of_settings(folder: Path) -> None:
    Path(".env").mkdir()
    settings_or_exit("test")
    config.effective()
