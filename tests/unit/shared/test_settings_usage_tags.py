"""`DF_USAGE_TAGS`: keys as jobs have them, and no more than a job may have."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.support.harness import settings_for_tests

from shared.settings import describe


def test_keys_of_tags_are_accepted() -> None:
    assert settings_for_tests(usage_tags="project, acme.org/team:x").usage_tags == (
        "project",
        "acme.org/team:x",
    )
    assert settings_for_tests(usage_tags="").usage_tags == ()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("project=shop", "'project=shop' is no key of a tag: letters, digits and . _ : / - up"),
        ("two words", "'two words' is no key of a tag"),
        ("k" * 65, "is no key of a tag"),
        ("project,user,project", "project is there twice"),
        (",".join(map(str, range(11))), "a job has 10 tags at most, and these are 11 keys"),
    ],
)
def test_what_is_no_key_ends_the_start_with_a_line_that_says_so(keys: str, why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings_for_tests(usage_tags=keys)
    (line,) = describe(refused.value)
    assert line.startswith("DF_USAGE_TAGS: ") and why in line
