"""An odd address of any service, in every command that uses it: one line, and no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import run

SOUND = {
    "DF_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/x",
    "DF_REDIS_URL": "redis://:p@127.0.0.1:1/0",
    "DF_S3_ENDPOINT": "http://127.0.0.1:1",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}
ODD = {
    "DF_DATABASE_URL": ["postgresql://127.0.0.1:99999/x", "postgresql://u:Sec/ret@h/x"],
    "DF_REDIS_URL": ["redis://:Sec/ret@127.0.0.1:6379/0", "redis://[::Sec]:1/0"],
    "DF_S3_ENDPOINT": ["http://h:Sec", "http://Sec ret"],
}
LETTER = "00000000-0000-4000-8000-000000000000"
COMMANDS = {
    "dlq list": ("DF_DATABASE_URL",),
    f"dlq show {LETTER}": ("DF_DATABASE_URL", "DF_REDIS_URL"),
    f"dlq drop {LETTER}": ("DF_DATABASE_URL", "DF_REDIS_URL", "DF_S3_ENDPOINT"),
    f"dlq replay {LETTER}": ("DF_DATABASE_URL",),
    "migrate": ("DF_DATABASE_URL",),
    "prune": ("DF_DATABASE_URL", "DF_S3_ENDPOINT"),
    "up": ("DF_DATABASE_URL", "DF_REDIS_URL", "DF_S3_ENDPOINT"),
    "doctor": ("DF_DATABASE_URL", "DF_REDIS_URL", "DF_S3_ENDPOINT"),
    "model import models/sd/dreamforge-demo@1": ("DF_DATABASE_URL",),
}
CASES = [
    pytest.param(command, setting, value, id=f"{command.partition(' 0')[0]} {setting} {number}")
    for command, settings in COMMANDS.items()
    for setting in settings
    for number, value in enumerate(ODD[setting])
]
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def only_these(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DF_")]:
        monkeypatch.delenv(name)
    for name, value in SOUND.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DF_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "setting", "value"), CASES)
def test_a_command_names_the_setting_and_shows_no_piece_of_it(
    command: str,
    setting: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(setting, value)
    words = [str(ROOT / word) if word.startswith("models/") else word for word in command.split()]
    assert run(words) != 0
    written = capsys.readouterr()
    assert f"{setting}: " in written.out + written.err
    assert "Sec" not in written.out + written.err
    assert "Traceback" not in written.err


@pytest.mark.parametrize("module", ["api", "supervisor"])
@pytest.mark.parametrize("setting", ODD)
def test_a_service_ends_with_the_line_and_exit_code_2(module: str, setting: str) -> None:
    environ = {**os.environ, setting: ODD[setting][0], "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", module],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert f"{setting}: " in line
    assert "Sec" not in line
