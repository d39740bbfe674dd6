"""Which model a reference means."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.support.model_rows import model_row

from api.admission.models import choose_model, find_model
from shared.db.models import Model
from shared.errors import InvalidInput, ModelUnavailable

OLDER_ID = UUID("0f6a3c1e-5b7d-4c02-9a58-3d1e7b9f2a46")  # fixed: it is in the names of tests
NEWER, OLDER = model_row(version="2"), model_row(id=OLDER_ID)
OTHER = model_row(name="pear")
UPSCALER = model_row(name="gan", capabilities=["upscale"])
ALL = [NEWER, OLDER, UPSCALER, OTHER]  # of each name the newest first, as the registry lists them


def choose(models: list[Model], reference: str | None = None, default: str | None = None) -> Model:
    return choose_model(models, reference, default=default, capability="generate")


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("apple", NEWER),
        ("apple@1", OLDER),
        ("apple@2", NEWER),
        (str(OLDER.id), OLDER),
        (str(OLDER.id).upper(), None),
        ("apple@3", None),
        ("apple@", None),
        ("Apple", None),
        ("nul\0", None),
        ("", None),
    ],
)
def test_a_reference_is_an_id_a_name_or_a_name_and_version(
    reference: str, expected: Model | None
) -> None:
    assert find_model(ALL, reference) is expected


def test_the_request_comes_before_the_default() -> None:
    assert choose(ALL, "pear", default="apple") is OTHER
    assert choose(ALL, default="apple") is NEWER


def test_the_only_model_that_can_needs_no_name() -> None:
    off = model_row(name="off", enabled=False)
    assert choose([off, UPSCALER, OTHER]) is OTHER


def test_several_models_are_not_chosen_between() -> None:
    with pytest.raises(InvalidInput, match="name one of: apple@2, apple@1, pear@1"):
        choose(ALL)


@pytest.mark.parametrize(
    ("models", "reference", "default", "message"),
    [
        ([], None, None, "no model is installed"),
        (ALL, "plum", None, "model_id: no such model"),
        (ALL, None, "plum", "DF_DEFAULT_MODEL"),
        ([model_row(name="off", enabled=False)], "off", None, "off@1 is disabled"),
    ],
)
def test_a_model_that_is_not_there_or_disabled_is_unavailable(
    models: list[Model], reference: str | None, default: str | None, message: str
) -> None:
    with pytest.raises(ModelUnavailable, match=message) as found:
        choose(models, reference, default)
    # What is told stands at the field that it is about.
    assert found.value.details.get("field") == ("model_id" if models else None)


def test_where_models_only_edit_a_text_alone_asks_for_a_picture() -> None:
    editor = model_row(name="editor", capabilities=["edit"])
    with pytest.raises(InvalidInput, match=r"images: .* send one in images.*editor@1$") as found:
        choose([editor, UPSCALER])
    assert found.value.details["models"] == ["editor@1"]
    with pytest.raises(ModelUnavailable, match="no model is installed"):
        choose([model_row(name="off", capabilities=["edit"], enabled=False)])
