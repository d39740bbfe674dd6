"""What the page says of errors is what the documentation says."""

from __future__ import annotations

import pytest

from api.export_errors import SOURCE, TARGET, explanations, render
from shared.states import Reason


def test_the_page_has_the_words_of_the_documentation() -> None:
    hint = "run: python -m api.export_errors"
    assert TARGET.read_text(encoding="utf-8") == render(), hint


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_job_is_explained(reason: Reason) -> None:
    found = explanations(SOURCE.read_text(encoding="utf-8"))
    assert found[reason]["means"]
    assert found[reason]["todo"]
    assert "*" not in "".join(found[reason].values())
