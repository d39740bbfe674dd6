"""Where traces go, and what may be wrong with that."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.support.harness import settings_for_tests

from shared.settings import describe

TOKEN = "Bearer abc=def"


def refused(**wrong: str | float) -> str:
    with pytest.raises(ValidationError) as found:
        settings_for_tests(**wrong)
    (line,) = describe(found.value)
    return line


def test_no_collector_is_the_default_and_an_empty_one_is_none() -> None:
    assert settings_for_tests().otlp_endpoint is None
    assert settings_for_tests(otlp_endpoint="", otlp_headers="").otlp_endpoint is None


def test_a_collector_may_live_below_a_path() -> None:
    given = settings_for_tests(otlp_endpoint="https://collector.example.org/otlp/")
    assert given.otlp_endpoint == "https://collector.example.org/otlp"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("collector:4318", "http://host:port"),
        ("grpc://collector:4317", "http://host:port"),
        ("http://", "http://host:port"),
        ("http://collector:4318/v1/traces", "base address"),
        ("http://user:token@collector:4318", "DF_OTLP_HEADERS"),
        ("http://collector:4318?token=x", "DF_OTLP_HEADERS"),
    ],
)
def test_an_address_that_is_none_is_refused_with_its_name(wrong: str, says: str) -> None:
    line = refused(otlp_endpoint=wrong)
    assert line.startswith("DF_OTLP_ENDPOINT: ") and says in line


def test_the_switch_of_the_sdk_cannot_turn_it_off_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert "OTEL_SDK_DISABLED" in refused(otlp_endpoint="http://collector:4318")


def test_headers_are_read_and_never_shown() -> None:
    given = settings_for_tests(otlp_headers=f"Authorization={TOKEN}, x-tenant = team ,")
    assert given.otlp_headers_sent == {"Authorization": TOKEN, "x-tenant": "team"}
    assert "abc" not in repr(given) + str(given.model_dump())


@pytest.mark.parametrize("wrong", ["secret-token", "a b=c", "name=va\nlue", "=x"])
def test_a_header_that_is_none_is_refused_without_being_shown(wrong: str) -> None:
    line = refused(otlp_headers=wrong)
    assert line == "DF_OTLP_HEADERS: must be name=value, separated by commas"


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_a_ratio_is_a_share(wrong: float) -> None:
    assert refused(trace_ratio=wrong).startswith("DF_TRACE_RATIO: ")
