"""`DF_ADMIN_KEYS`: each is the name of a key."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.support.harness import settings_for_tests

from shared.settings import describe

KEYS = f"ada:{'0' * 64},bob:{'1' * 64}"


def test_names_of_keys_are_accepted() -> None:
    assert settings_for_tests(api_keys=KEYS, admin_keys="ada, bob").admin_keys == ("ada", "bob")
    assert settings_for_tests(admin_keys="").admin_keys == ()


@pytest.mark.parametrize(("keys", "there"), [(KEYS, "ada, bob"), ("", "none")])
def test_a_name_of_no_key_ends_the_start_with_a_line_that_says_so(keys: str, there: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings_for_tests(api_keys=keys, admin_keys="eve")
    line = f"DF_ADMIN_KEYS: 'eve' is the name of no key in DF_API_KEYS; there are: {there}"
    assert describe(refused.value) == [line]
