"""Values that PostgreSQL, the kernel or the store could not take are refused at start."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import SecretStr

from shared import settings as settings_module
from shared.settings import Settings, settings_or_exit
from shared.users import parse_users

REQUIRED = {
    "DF_DATABASE_URL": "postgresql://u:p@localhost/d",
    "DF_REDIS_URL": "redis://:p@localhost/0",
    "DF_S3_ENDPOINT": "http://localhost:9000",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets folder: a file can hold what no variable can."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setattr(settings_module, "SECRETS_DIR", folder)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", folder)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DF_")]:
        monkeypatch.delenv(name)
    for name, value in REQUIRED.items():
        (folder / name.lower()).write_text(value)
    return folder


def is_of(field: str, *kinds: type) -> bool:
    annotation: Any = Settings.model_fields[field].annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    return any(kind in kinds for kind in (annotation, *options))


NUMBERS = [field for field in Settings.model_fields if is_of(field, int, float)]
TEXTS = [field for field in Settings.model_fields if is_of(field, str, Path, SecretStr)]
BEYOND = ["inf", "-inf", "nan", "1e400", "1e300", "9" * 30, "9" * 5000, "\u0661", "1,5", "0x10"]


def refused(name: str, value: str, secrets: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (secrets / name.lower()).write_text(value, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        settings_or_exit("api")
    shown = capsys.readouterr().err
    assert f"api: {name}: " in shown, shown
    return shown


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_nothing_could_count_is_refused(
    field: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in BEYOND:
        refused(f"DF_{field.upper()}", value, secrets, capsys)


@pytest.mark.parametrize("field", TEXTS)
def test_a_text_with_nul_or_a_line_break_is_refused(
    field: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = ["a\0b"] if is_of(field, Path) else ["a\0b", "a\nb", "a\x1b]0;owned\x07b"]
    for value in values:
        shown = refused(f"DF_{field.upper()}", value, secrets, capsys)
        assert "\x1b" not in shown
        assert "owned" not in shown or not is_of(field, SecretStr)


@pytest.mark.parametrize(
    "name", ["ab", "A-bucket", "a_bucket", "a b", "a/b", "../b", "a..b", "-ab", "1.2.3.4", "b" * 64]
)
def test_a_name_that_no_bucket_can_have_is_refused(
    name: str, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("DF_S3_BUCKET", name, secrets, capsys)


@pytest.mark.parametrize(
    "policy",
    [
        "weight=inf", "weight=nan", "weight=1e300", "weight=1e-300", "weight=0", "weight=-1",
        f"unfinished={'9' * 30}", f"per_minute={'9' * 5000}", "streams=\u0661", "unfinished=-1",
        "unfinished=",
    ],
)  # fmt: skip
def test_a_bound_of_a_user_that_nothing_could_count_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_users(f"ada {policy}")
