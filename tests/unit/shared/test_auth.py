"""`DF_API_KEYS`: what it takes, and what it says about what it does not."""

from __future__ import annotations

import hashlib

import pytest

from shared.auth import ApiKey, authenticate, parse_api_keys
from shared.settings import settings_or_exit

ONE = hashlib.sha256(b"k1").hexdigest()
TWO = hashlib.sha256(b"k2").hexdigest()
THREE = hashlib.sha256(b"k3").hexdigest()


def test_names_and_hashes_are_read_in_either_case_and_with_spaces_between() -> None:
    assert parse_api_keys(f"shop:{ONE}, web-2_x:{TWO.upper()} ") == (
        ApiKey(name="shop", sha256=bytes.fromhex(ONE)),
        ApiKey(name="web-2_x", sha256=bytes.fromhex(TWO)),
    )


def test_two_keys_of_one_name_are_one_user_while_the_key_is_changed() -> None:
    keys = parse_api_keys(f"shop:{ONE},web:{THREE},shop:{TWO}")
    assert {authenticate([f"Bearer {key}"], keys) for key in ("k1", "k2")} == {"shop"}
    assert authenticate(["Bearer k3"], keys) == "web"


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_is_no_keys(text: str) -> None:
    assert parse_api_keys(text) == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (",", "entry 1 must be name:sha256hex"),
        (f"shop:{ONE},", "entry 2 must be"),
        ("my-secret-key", "entry 1 must be"),
        (f"{ONE}", "entry 1 must be"),
        (f":{ONE}", "a name is"),
        (f"Shop:{ONE}", "a name is"),
        (f"a/../b:{ONE}", "a name is"),
        (f"{'x' * 65}:{ONE}", "a name is"),
        ("shop:my-secret-key", "64 hexadecimal digits"),
        (f"shop:{ONE}0", "64 hexadecimal digits"),
        (f"shop:{ONE[:-1]}\u0661", "64 hexadecimal digits"),
        (f"shop:{ONE},shop:{TWO},shop:{THREE}", "entry 3 is the third key of its name"),
        (f"shop:{ONE},web:{ONE.upper()}", "entry 2 repeats the SHA-256"),
    ],
)
def test_what_is_wrong_is_named_by_its_place_and_never_shown(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        parse_api_keys(text)
    assert "my-secret-key" not in str(caught.value)


def test_a_wrong_setting_ends_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("REDIS_URL", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
        monkeypatch.setenv(f"DF_{name}", "redis://x" if name == "REDIS_URL" else "http://x")
    monkeypatch.setenv("DF_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("DF_API_KEYS", "shop:my-secret-key")
    with pytest.raises(SystemExit) as caught:
        settings_or_exit("api")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("api: DF_API_KEYS: entry 1: ")
    assert "my-secret-key" not in line
