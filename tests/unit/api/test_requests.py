"""What a create request may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from api.schemas.requests import CreateJob, InputId, KeyAndValue
from shared.models.families import SCHEDULERS

GOOD: dict[str, Any] = {"type": "generate", "prompt": "a red apple"}


def refused(**changes: Any) -> dict[str, Any]:
    """The one finding about GOOD with these changes."""
    with pytest.raises(ValidationError) as caught:
        CreateJob.model_validate(GOOD | changes)
    (finding,) = caught.value.errors()
    return {
        "field": ".".join(map(str, finding["loc"])),
        **finding.get("ctx", {}),
        "type": finding["type"],
    }


def test_type_and_prompt_are_all_that_is_needed() -> None:
    job = CreateJob.model_validate(GOOD)
    assert (job.count, job.format, job.embed_metadata, job.negative_prompt) == (1, "png", True, "")
    assert job.width is job.height is job.steps is job.seed is None


@pytest.mark.parametrize("missing", ["type", "prompt"])
def test_type_and_prompt_are_needed(missing: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        CreateJob.model_validate({k: v for k, v in GOOD.items() if k != missing})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x" * 4096),
        ("prompt", "🍎" * 4096),
        ("prompt", "\u202eright to left\n\ttabs"),
        ("width", 16),
        ("height", 4096),
        ("steps", 1),
        ("steps", 200),
        ("guidance", 0),
        ("guidance", 50.0),
        ("seed", 0),
        ("seed", 2**53 - 1),
        ("count", 100),
        ("format", "jpg"),
        ("scheduler", "euler_a"),
        ("timeout_s", 0.5),
        ("chain", {"upscale": {"scale": 4, "impl": "resample", "strict_scale": True}}),
        ("chain", {}),
        ("tags", {f"team/{n}.a-b:c": "é" * 256 for n in range(10)}),
    ],
)
def test_values_up_to_the_limits_are_accepted(field: str, value: Any) -> None:
    CreateJob.model_validate(GOOD | {field: value})


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("prompt", "", {"min_length": 1}),
        ("prompt", "x" * 4097, {"max_length": 4096}),
        ("negative_prompt", "x" * 4097, {"max_length": 4096}),
        ("width", 65, {"multiple_of": 8}),
        ("tags", {str(n): "" for n in range(11)}, {"max_length": 10}),
        ("width", 8, {"ge": 16}),
        ("height", 4104, {"le": 4096}),
        ("steps", 0, {"ge": 1}),
        ("steps", 201, {"le": 200}),
        ("guidance", -0.1, {"ge": 0}),
        ("guidance", 50.1, {"le": 50}),
        ("seed", -1, {"ge": 0}),
        ("seed", 2**53, {"lt": 2**53}),
        ("count", 0, {"ge": 1}),
        ("count", 101, {"le": 100}),
        ("timeout_s", 0, {"gt": 0}),
    ],
)
def test_a_value_beyond_a_limit_is_refused_with_field_and_limit(
    field: str, value: Any, limit: dict[str, Any]
) -> None:
    finding = refused(**{field: value})
    assert finding["field"] == field
    assert limit.items() <= finding.items()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "upscale"),
        ("prompt", 5),
        ("prompt", "nul \0 inside"),
        ("prompt", "lone \ud800 surrogate"),
        ("model_id", "nul\0"),
        ("width", "64"),
        ("width", 64.5),
        ("width", True),
        ("seed", 1000.5),
        ("guidance", float("nan")),
        ("guidance", float("inf")),
        ("guidance", "7"),
        ("count", "1"),
        ("embed_metadata", 1),
        ("format", "gif"),
        ("scheduler", "nope"),
        ("chain", {"downscale": {}}),
        ("chain", {"upscale": {"scale": 3}}),
        ("unknown", 1),
    ],
)
def test_a_value_of_another_kind_is_refused_and_never_converted(field: str, value: Any) -> None:
    assert refused(**{field: value})["field"].startswith(field)


def test_the_scheduler_names_are_those_of_the_registry() -> None:
    for scheduler in SCHEDULERS:
        CreateJob.model_validate(GOOD | {"scheduler": scheduler})
    assert refused(scheduler="nope")["expected"].count("'") == 2 * len(SCHEDULERS)


@pytest.mark.parametrize("field", ["width", "height", "steps", "count", "seed"])
def test_a_whole_number_may_have_a_point(field: str) -> None:
    """JSON Schema's `integer` allows it, and several languages write every number so."""
    job = CreateJob.model_validate(GOOD | {field: 64.0})
    assert (getattr(job, field), type(getattr(job, field))) == (64, int)
    assert refused(**{field: 64.5})["type"] == "int_type"


def test_a_choice_of_numbers_may_have_a_point_too() -> None:
    job = CreateJob.model_validate(GOOD | {"chain": {"upscale": {"scale": 2.0}}})
    assert job.chain is not None
    assert job.chain.upscale is not None
    assert job.chain.upscale.scale == 2


@pytest.mark.parametrize(("field", "value"), [("prompt", 1.0), ("embed_metadata", 1.0)])
def test_what_is_no_number_does_not_become_one(field: str, value: float) -> None:
    assert refused(**{field: value})["field"] == field


@pytest.mark.parametrize("text", ["", "x", "x:1", "ä=1", "=1", "x=\0", "x=1\n\0", "a b=1"])
def test_a_form_is_told_in_words_and_not_as_a_pattern(text: str) -> None:
    forms: list[tuple[Any, str]] = [
        (KeyAndValue, "must be a tag's key=value, such as project=orchard"),
        (InputId, "must be an id, as answers have it"),
    ]
    for form, words in forms:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(form).validate_python(text)
        assert words in caught.value.errors()[0]["msg"]
    assert TypeAdapter(KeyAndValue).validate_python("a.b:c=d\n=e") == "a.b:c=d\n=e"
