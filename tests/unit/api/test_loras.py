"""Which LoRAs a request means, and what is refused with what would be accepted."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.model_rows import model_row

from api.admission.loras import choose_loras, lora_bytes
from api.admission.models import choose_model
from api.schemas.requests import CreateJob, Lora
from shared.db.models import Model
from shared.errors import InvalidInput, ModelUnavailable
from shared.presets import preset


def base(name: str, kind: str, width: int | None, **changes: Any) -> Model:
    parts = {"unet": {"numbers": 1_000_000, "largest": 10_000}}
    descriptor = {"lora_width": width, "parts": parts}
    capabilities = ["generate", "lora"]
    facts = {"name": name, "kind": kind, "descriptor": descriptor, "capabilities": capabilities}
    return model_row(**(facts | changes))


def lora(name: str, family: str, width: int | None, **changes: Any) -> Model:
    descriptor = {"family": family, "width": width, "changed_numbers": 300_000}
    facts = {"name": name, "kind": "lora", "descriptor": descriptor, "capabilities": []}
    return model_row(**(facts | changes))


SD1, SDXL, OLD = base("sd1", "sd", 768), base("xl", "sdxl", 2048), base("old", "sd", None)
FLUX = base("flux", "flux", 3072)
STYLE, OTHER = lora("style", "sd", 768), lora("other", "sd", 768)
OF_SD2, OF_XL = lora("sd2", "sd", 1024), lora("xl-style", "sdxl", 2048)
VAGUE = lora("vague", "sd", None)
ALL = [SD1, SDXL, OLD, FLUX, STYLE, OTHER, OF_SD2, OF_XL, VAGUE]


def chosen(model: Model, *references: str, there: list[Model] = ALL, **more: Any) -> list[Model]:
    requested = [Lora(model_id=each, **more) for each in references]
    return [each.row for each in choose_loras(requested, there, model)]


def test_loras_are_found_by_name_version_and_id_in_their_order() -> None:
    references = ("other@1", str(STYLE.id), "vague")
    assert chosen(SD1, *references) == [OTHER, STYLE, VAGUE]
    (resolved,) = choose_loras([Lora(model_id="style", scale=-0.5)], ALL, SD1)
    params = resolved.params
    assert (params.id, params.name, params.scale) == (str(STYLE.id), "style", -0.5)
    assert params.checkpoint_sha256 == STYLE.checkpoint_sha256


def test_a_model_of_unknown_width_takes_every_lora_of_its_kind() -> None:
    assert chosen(OLD, "style", "sd2") == [STYLE, OF_SD2]


@pytest.mark.parametrize(
    ("model", "references", "message"),
    [
        (SD1, ["xl-style"], "models of the kind sdxl, and sd1@1 is of the kind sd. LoRAs that fit"),
        (
            SD1,
            ["sd2"],
            "1024 wide, and sd1@1 is of the kind sd and 768 wide. LoRAs that fit: style",
        ),
        (FLUX, ["style"], "LoRAs that fit: none is installed"),
        (SD1, ["sd1"], "sd1@1 is no LoRA but a model of the kind sd"),
        (SD1, ["style", "style@1"], "style@1 is there twice"),
        (base("plain", "auto", None, capabilities=["generate"]), ["style"], "takes none"),
    ],
)
def test_what_does_not_fit_is_refused(model: Model, references: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        chosen(model, *references)
    assert message in caught.value.message
    assert caught.value.details["field"].startswith("loras")


def test_a_model_that_takes_none_is_no_trouble_without_any() -> None:
    assert chosen(base("plain", "auto", None, capabilities=["generate"])) == []


def test_an_unknown_or_disabled_lora_is_unavailable() -> None:
    with pytest.raises(ModelUnavailable, match=r"loras.0.model_id: no such LoRA") as unknown:
        chosen(SD1, "absent")
    with pytest.raises(ModelUnavailable, match="disabled") as disabled:
        chosen(SD1, "off", there=[SD1, lora("off", "sd", 768, enabled=False)])
    for found in (unknown, disabled):
        assert found.value.details["field"] == "loras.0.model_id"


def test_a_name_that_a_lora_shares_with_a_model_means_each_in_its_place() -> None:
    there = [lora("style", "sd", 768, version="2"), base("style", "sd", 768)]
    model = choose_model(there, "style", default=None, capability="generate")
    assert model is there[1]
    assert chosen(model, "style", there=there) == [there[0]]


def test_a_lora_is_no_model_of_a_job() -> None:
    with pytest.raises(InvalidInput, match="is a LoRA"):
        choose_model(ALL, "style", default=None, capability="generate")
    # Nor is it one of the models between which a request without a name could choose.
    only = choose_model([SD1, STYLE], None, default=None, capability="generate")
    assert only is SD1


@pytest.mark.parametrize("scale", [4.5, -4.5, math.nan, math.inf, "1", True])
def test_a_scale_out_of_range_or_of_no_number_is_refused(scale: Any) -> None:
    with pytest.raises(ValidationError):
        Lora.model_validate({"model_id": "style", "scale": scale})


def test_more_than_eight_are_refused() -> None:
    body = {"type": "generate", "prompt": "x", "loras": [{"model_id": "a"}] * 9}
    with pytest.raises(ValidationError, match="loras"):
        CreateJob.model_validate(body)


def test_changed_weights_count_where_the_device_is_the_host_and_no_more_than_the_model() -> None:
    on_cpu, on_gpu = (preset(name).budget_for("sd") for name in ("cpu", "gpu-24gb"))
    loras = choose_loras([Lora(model_id="style")], ALL, SD1)
    assert lora_bytes((), SD1, on_cpu) == 0
    assert lora_bytes(loras, SD1, on_cpu) == 300_000 * 4 + 10_000 * 12
    assert lora_bytes(loras * 8, SD1, on_cpu) == 1_000_000 * 4 + 10_000 * 12
    assert lora_bytes(loras, SD1, on_gpu) == 0
