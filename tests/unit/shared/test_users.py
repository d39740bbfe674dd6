"""Weight, priorities and bounds of users, and what a worker is kept for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.settings import Settings, describe
from shared.states import Priority
from shared.users import Serves, UserPolicy, parse_serves, parse_users

KEY = "a" * 64
REQUIRED = {
    "DF_DATABASE_URL": "postgresql://u:p@127.0.0.1:5432/d",
    "DF_REDIS_URL": "redis://127.0.0.1:6379/0",
    "DF_S3_ENDPOINT": "http://127.0.0.1:9000",
    "DF_S3_ACCESS_KEY": "a",
    "DF_S3_SECRET_KEY": "s",
}


@pytest.fixture(autouse=True)
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def refusal(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (line,) = describe(refused.value)
    return line


def test_a_user_has_what_its_entry_says() -> None:
    ada, everyone = parse_users(
        "ada weight=2.5 priorities=normal+high unfinished=100 per_minute=6 streams=3, * weight=0.5"
    )
    assert ada == UserPolicy(
        name="ada",
        weight=2.5,
        priorities=(Priority.HIGH, Priority.NORMAL),
        unfinished=100,
        per_minute=6,
        streams=3,
    )
    assert everyone == UserPolicy(name="*", weight=0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ada weight=0", "ada: weight=0 must be a number from 0.001 to 1000"),
        ("ada weight=-1", "a number from 0.001 to 1000"),
        ("ada weight=nan", "a number from 0.001 to 1000"),
        ("ada weight=inf", "a number from 0.001 to 1000"),
        ("ada weight=", "a number from 0.001 to 1000"),
        ("ada priorities=urgent", "one or several of high, normal, low"),
        ("ada priorities=", "one or several of high, normal, low"),
        ("ada unfinished=-1", "a whole number"),
        ("ada streams=1.5", "a whole number"),
        ("ada wieght=2", "'wieght' is not known; there are weight, priorities"),
        ("ada weight=1 weight=2", "weight is there twice"),
        ("ada, ada weight=2", "ada is there twice"),
        ("Ada weight=1", "'Ada' is no name of a key"),
        ("weight=2", "is no name of a key"),
    ],
)
def test_an_entry_that_means_nothing_is_refused_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    line = refusal(monkeypatch, DF_USERS=text)
    assert line.startswith("DF_USERS: ") and says in line


@pytest.mark.parametrize(
    ("setting", "value"), [("DF_USERS", "bob weight=2"), ("DF_SERVES", "user:bob")]
)
def test_a_user_without_a_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    line = refusal(monkeypatch, DF_API_KEYS=f"ada:{KEY}", **{setting: value})
    assert line == (f"{setting}: 'bob' is the name of no key in DF_API_KEYS; there are: ada")


def test_without_keys_there_is_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there are: default" in refusal(monkeypatch, DF_USERS="ada weight=2")
    monkeypatch.setenv("DF_USERS", "default priorities=low")
    assert Settings().policy_of("default").priorities == (Priority.LOW,)


def test_a_user_has_the_bounds_for_everyone_unless_it_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DF_API_KEYS", f"ada:{KEY},bob:{'b' * 64}")
    monkeypatch.setenv("DF_MAX_UNFINISHED_JOBS", "50")
    monkeypatch.setenv("DF_USERS", "ada unfinished=0 streams=2, * per_minute=7")
    settings = Settings()
    ada, bob = settings.policy_of("ada"), settings.policy_of("bob")
    assert (ada.unfinished, ada.per_minute, ada.streams) == (0, 0, 2)
    assert (bob.unfinished, bob.per_minute, bob.streams) == (50, 7, None)


@pytest.mark.parametrize(
    ("allowed", "default"),
    [("high+normal+low", "normal"), ("high+low", "low"), ("high", "high"), ("low", "low")],
)
def test_a_job_that_names_no_priority_gets_one_that_its_key_may_use(
    allowed: str, default: str
) -> None:
    (ada,) = parse_users(f"ada priorities={allowed}")
    assert ada.default_priority == default


def test_a_worker_serves_what_it_is_kept_for() -> None:
    serves = parse_serves("priority:high, user:ada,user:bob")
    assert serves == Serves(priorities=(Priority.HIGH,), users=("ada", "bob"))
    assert serves.accepts(user="ada", priority="high")
    assert not serves.accepts(user="ada", priority="low")
    assert not serves.accepts(user="eve", priority="high")
    assert parse_serves("").accepts(user="eve", priority="low")


@pytest.mark.parametrize("text", ["high", "priority:urgent", "user:", "user:*", "queue:gpu"])
def test_a_worker_that_serves_what_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    line = refusal(monkeypatch, DF_SERVES=text)
    assert line.startswith("DF_SERVES: ") and "must be priority:NAME" in line
